"""Publishes what the engine produces: one command for all jobs, off the engine's thread.

A job gets at most one delta in each turn: what a faster engine says meanwhile is held and merged
into the next one. First tokens and ends never wait. Turns are the same for all jobs, so that what
was held goes out in one write, and longer the more jobs there are: each delta costs processor time
all the way to its reader. Within a turn the thread sleeps, unless something comes that may not
wait: it would take Python's lock just when the engine prepares its next step. A write that Redis
did not answer is repeated until it is: appends are idempotent. Knows nothing of tensors.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import redis
from redis.exceptions import RedisError

from broker import channel
from broker.errors import ErrorBody
from broker.events import Delta, End, Entry, Event, Failed, FinishReason, Usage
from broker.outage import MAX_PAUSE_S, Outage
from workers.running import RunningJob
from workers.scheduler import Output

log = logging.getLogger(__name__)

NO_USAGE = Usage(0, 0)

MIN_TURN_S = 0.02
"""A job's text moves 50 times a second at most; nobody reads faster than that."""
TURN_S_PER_JOB = 0.005
"""All jobs' texts together move 200 times a second, as long as that is often enough for each."""
MAX_TURN_S = 0.1
"""However many the jobs, a text that moves more seldom than that would seem to falter."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job whose terminal event has been written."""

    job: RunningJob
    finish_reason: FinishReason | None
    usage: Usage
    error: ErrorBody | None


_Item = tuple[RunningJob, Output]
_Held = dict[RunningJob, list[Output]]


class Publisher:
    """One thread between the engine and Redis."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        on_ended: Callable[[Sequence[Ended]], None],
        on_fenced: Callable[[RunningJob], None],
        on_cut: Callable[[RunningJob], bool],
        outage: Outage,
        min_turn_s: float = MIN_TURN_S,
    ) -> None:
        """Use `client` (may retry); call back, on the publisher's thread, when jobs are over.

        `on_cut` is called when Redis has lost the end of a job's log, and returns whether it wrote
        it again, the newest events included. It may raise RedisError: then it is called again.
        """
        self._client = client
        self._min_turn_s = min_turn_s
        self._on_ended = on_ended
        self._on_fenced = on_fenced
        self._on_cut = on_cut
        self._outage = outage
        self._items: queue.SimpleQueue[list[_Item] | None] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._is_idle = True
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.tokens = 0
        """Tokens published since the start."""
        self.has_failed = False
        """Whether the thread has ended by an error, so that nothing is told any more."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, items: list[_Item]) -> None:
        """Hand over one step's outputs; never waits."""
        self._items.put(items)
        if self._is_idle or any(_is_urgent(job, output) for job, output in items):
            self._wake.set()

    def stop(self, timeout_s: float) -> None:
        """Publish all that was handed over, then end the thread."""
        self._items.put(None)
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._publish_until_stopped()
        except Exception:
            self.has_failed = True
            log.exception("answers cannot be published any more")

    def _publish_until_stopped(self) -> None:
        held: _Held = {}
        told: set[RunningJob] = set()
        turn_ends_s = 0.0
        running = True
        while running:
            running = self._take(held, turn_ends_s)
            now = time.monotonic()
            if now >= turn_ends_s:
                turn_ends_s = now + self._turn_s(len(told))
                told.clear()
            due = [
                job
                for job, outputs in held.items()
                if job not in told or _is_last(outputs[-1]) or not running
            ]
            if due:
                told.update(due)
                self._publish([(job, _merge(held.pop(job))) for job in due])

    def _turn_s(self, jobs: int) -> float:
        return max(self._min_turn_s, min(MAX_TURN_S, jobs * TURN_S_PER_JOB))

    def _take(self, held: _Held, turn_ends_s: float) -> bool:
        """Wait for what may not wait or for the turn's end, then for anything; move it to `held`.

        Returns:
            False when nothing comes any more.
        """
        self._wake.wait(max(0.0, turn_ends_s - time.monotonic()))
        if not held and not self._wake.is_set():
            self._is_idle = True
            if self._items.empty():
                self._wake.wait()
            self._is_idle = False
        self._wake.clear()
        try:
            while (items := self._items.get_nowait()) is not None:
                for job, output in items:
                    held.setdefault(job, []).append(output)
        except queue.Empty:
            return True
        return False

    def _publish(self, items: list[_Item]) -> None:
        jobs = {job.id: job for job, _ in items}
        entries = [(job.id, entry) for job, output in items for entry in _entries(job, output)]
        over = self._append(jobs, entries)
        self.tokens += sum(len(output.token_ids) + output.tokens for _, output in items)
        ended = [
            Ended(job, output.finish_reason, output.usage or NO_USAGE, output.error)
            for job, output in items
            if job.id not in over and _is_last(output)
        ]
        if ended:
            self._on_ended(ended)

    def _append(self, jobs: Mapping[str, RunningJob], entries: list[tuple[str, Entry]]) -> set[str]:
        """Write until it is written; return the ids of jobs that are not this worker's any more."""
        logged = {job_id: job.logged for job_id, job in jobs.items()}
        pause_s = 0.05
        while True:
            try:
                fenced, cut = channel.write(self._client, entries, logged)
                lost = {job_id for job_id in cut if not self._on_cut(jobs[job_id])}
                break
            except RedisError as error:
                self._outage.begin("answers", error)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        self._outage.end("answers")
        for job_id in fenced:
            self._on_fenced(jobs[job_id])
        return fenced | lost


def _is_urgent(job: RunningJob, output: Output) -> bool:
    return job.first_token_s is None or _is_last(output)


def _is_last(output: Output) -> bool:
    return output.finish_reason is not None or output.error is not None


def _merge(outputs: list[Output]) -> Output:
    if len(outputs) == 1:
        return outputs[0]
    return replace(
        outputs[-1],
        text="".join(each.text for each in outputs),
        token_ids=tuple(chain.from_iterable(each.token_ids for each in outputs)),
        logprobs=tuple(chain.from_iterable(each.logprobs for each in outputs)),
        tokens=sum(each.tokens for each in outputs),
    )


def _entries(job: RunningJob, output: Output) -> list[Entry]:
    """One event; two where an error has held text before it, since an error carries none."""
    if job.first_token_s is None and (output.token_ids or output.tokens):
        job.first_token_s = time.monotonic()
    job.answer.append(output.text)
    return [job.write(event) for event in _number(job, output)]


def _number(job: RunningJob, output: Output) -> Iterator[Event]:
    if output.finish_reason is not None:
        yield End(
            job.next_id(),
            output.text,
            output.token_ids,
            output.finish_reason,
            output.usage or NO_USAGE,
            job.timings(),
            output.logprobs,
        )
        return
    if output.error is None or output.token_ids or output.text:
        yield Delta(job.next_id(), output.text, output.token_ids, output.logprobs)
    if output.error is not None:
        yield Failed(job.next_id(), output.error)
