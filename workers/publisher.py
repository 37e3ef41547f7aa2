"""Publishes what the engine produces: one pipelined write for all jobs, off the engine's thread.

Small outputs of one job that pile up while a write is under way are merged into one event. A write
that Redis did not answer is repeated until it is: appends are idempotent. Knows nothing of tensors.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis
from redis.exceptions import RedisError

from broker import channel
from broker.errors import ErrorBody
from broker.messages import Delta, End, Event, Failed, FinishReason, Usage
from workers.running import RunningJob
from workers.scheduler import Output

log = logging.getLogger(__name__)

NO_USAGE = Usage(0, 0)


@dataclass(frozen=True, slots=True)
class Ended:
    """A job whose terminal event has been written."""

    job: RunningJob
    finish_reason: FinishReason | None
    usage: Usage
    error: ErrorBody | None


_Item = tuple[RunningJob, Output]


class Publisher:
    """One thread between the engine and Redis."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        on_ended: Callable[[Sequence[Ended]], None],
        on_fenced: Callable[[RunningJob], None],
    ) -> None:
        """Use `client` (may retry); call back, on the publisher's thread, when jobs are over."""
        self._client = client
        self._on_ended = on_ended
        self._on_fenced = on_fenced
        self._items: queue.SimpleQueue[list[_Item] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.tokens = 0
        """Tokens published since the start."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, items: list[_Item]) -> None:
        """Hand over one step's outputs; never waits."""
        self._items.put(items)

    def stop(self, timeout_s: float) -> None:
        """Publish what is queued, then end the thread."""
        self._items.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        running = True
        while running:
            items: list[_Item] = []
            group = self._items.get()
            while True:
                if group is None:
                    running = False
                    break
                items += group
                if self._items.empty():
                    break
                group = self._items.get()
            if items:
                self._publish(_merge(items))

    def _publish(self, items: list[_Item]) -> None:
        events = [(job, _event(job, output)) for job, output in items]
        fenced = self._append([(job.id, event) for job, event in events])
        self.tokens += sum(len(output.token_ids) for _, output in items)
        for job, _ in events:
            if job.id in fenced:
                self._on_fenced(job)
        ended = [
            Ended(job, output.finish_reason, output.usage or NO_USAGE, output.error)
            for job, output in items
            if job.id not in fenced and (output.finish_reason or output.error)
        ]
        if ended:
            self._on_ended(ended)

    def _append(self, events: list[tuple[str, Event]]) -> set[str]:
        pause_s = 0.05
        while True:
            try:
                return channel.append(self._client, events)
            except RedisError as error:
                log.warning("publishing failed, trying again in %.2f s: %s", pause_s, error)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 2.0)


def _merge(items: list[_Item]) -> list[_Item]:
    merged: dict[str, _Item] = {}
    for job, output in items:
        if (earlier := merged.get(job.id)) is not None:
            before = earlier[1]
            output = Output(
                output.request_id,
                before.text + output.text,
                before.token_ids + output.token_ids,
                output.finish_reason,
                output.usage,
                output.error,
                before.logprobs + output.logprobs,
            )
        merged[job.id] = (job, output)
    return list(merged.values())


def _event(job: RunningJob, output: Output) -> Event:
    if job.first_token_s is None and output.token_ids:
        job.first_token_s = time.time()
    job.answer.append(output.text)
    if output.error is not None:
        return Failed(job.next_id(), output.error)
    if output.finish_reason is None:
        return Delta(job.next_id(), output.text, output.token_ids, output.logprobs)
    return End(
        job.next_id(),
        output.text,
        output.token_ids,
        output.finish_reason,
        output.usage or NO_USAGE,
        job.timings(),
        output.logprobs,
    )
