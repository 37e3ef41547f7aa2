"""Runs jobs on an upstream: one task per job on an event loop, instead of an engine's steps.

What `Generation` is to an engine, `Relay` is to servers that compute over HTTP. Text that was told
already is not told again when an answer begins anew; a job whose upstream fails is tried at
another, then given back to its queue. Knows neither Redis nor RQ, nor what an upstream speaks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress

from broker.errors import ErrorBody, HeliographError, UpstreamFailed, WorkerFailed
from broker.events import Usage
from workers.engines.base import Piece, Upstream, UpstreamBusy
from workers.running import FetchImages, Publish, Retold, RunningJob
from workers.scheduler import Output

log = logging.getLogger(__name__)

CHECK_S = 1.0
TRIES = 3
"""Upstreams that one attempt at a job may fail at."""
BUSY_S = 20.0
"""How long a job waits for an upstream that has no room, before it fails."""


class Relay:
    """Runs jobs on one upstream; every job that was added gets one last output or is given back."""

    def __init__(
        self,
        upstream: Upstream,
        fetch_images: FetchImages,
        publish: Publish,
        give_back: Callable[[RunningJob, HeliographError], None],
        cell: Callable[[], str],
    ) -> None:
        """Connect to nothing yet; `cell` tells the id that a request's path gets on its way."""
        self._upstream = upstream
        self._fetch_images = fetch_images
        self._publish = publish
        self._give_back = give_back
        self._cell = cell
        self._loop = asyncio.new_event_loop()
        self._running: dict[RunningJob, tuple[asyncio.Task[None], _Answer]] = {}
        self._stopping = asyncio.Event()
        self._closed = threading.Event()

    @property
    def slots(self) -> int:
        """Jobs that may run at once."""
        return self._upstream.slots

    @property
    def trouble(self) -> str:
        """Why no job can run now; empty when one can."""
        return self._upstream.trouble

    @property
    def pass_s(self) -> float:
        """See `Runner.pass_s`; it only waits, and each wait has its limit."""
        return 0.0

    def add(self, job: RunningJob) -> None:
        """Run a job."""
        self._call(self._start, job)

    def cancel(self, job: RunningJob) -> None:
        """End a job; the upstream hears of it by the end of its connection."""
        job.cancelled = True
        self._call(self._end, job)

    def drop(self, job: RunningJob) -> None:
        """Forget a job that somebody else has taken over; nothing more is published for it."""
        self._call(self._end, job)

    def stop(self) -> None:
        """Let `run` return; running jobs are left as they are."""
        self._call(self._stopping.set)

    def run(self) -> None:
        """Work until `stop`."""
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._closed.set()
            self._loop.close()

    def _call(self, function: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # after the end of the loop there is nothing left to do
            if not self._closed.is_set():
                self._loop.call_soon_threadsafe(function, *args)

    async def _serve(self) -> None:
        checking = asyncio.create_task(self._check())
        await self._stopping.wait()
        left = [checking, *(task for task, _ in self._running.values())]
        self._running.clear()
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._upstream.close()

    async def _check(self) -> None:
        trouble = None
        while True:
            try:
                await self._upstream.check()
            except Exception:
                log.exception("the upstream could not be asked")
            if self._upstream.trouble != trouble:
                trouble = self._upstream.trouble
                if trouble:
                    log.warning("no jobs are taken: %s", trouble)
                else:
                    log.info("jobs are taken, %d at once", self._upstream.slots)
            await asyncio.sleep(CHECK_S)

    def _start(self, job: RunningJob) -> None:
        answer = _Answer(job)
        self._running[job] = (self._loop.create_task(self._run(job, answer)), answer)

    def _end(self, job: RunningJob) -> None:
        if (running := self._running.pop(job, None)) is None:
            return
        task, answer = running
        task.cancel()
        if job.cancelled:  # told here, since a task that has not begun yet never will
            ended = Output(job.id, finish_reason="cancelled", usage=answer.usage)
            self._publish([(job, ended)])

    async def _run(self, job: RunningJob, answer: _Answer) -> None:
        """Bring one job to its end; without a word once it was ended from outside."""
        try:
            output = await self._answer(job, answer)
        except HeliographError as error:
            output = Output(job.id, error=error.body)
        except Exception:
            log.exception("job %s could not be relayed", job.id)
            output = Output(job.id, error=_unexpected(job))
        if self._running.pop(job, None) is not None and output is not None:
            self._publish([(job, output)])

    async def _answer(self, job: RunningJob, answer: _Answer) -> Output | None:
        images = await asyncio.to_thread(self._fetch_images, job)
        cell = await asyncio.to_thread(self._cell)
        failure = await self._try(job, answer, images, cell)
        if failure is None:
            return answer.last
        if job.may_be_given_back:
            del self._running[job]
            self._give_back(job, failure)
            return None
        return Output(job.id, error=failure.body)

    async def _try(
        self, job: RunningJob, answer: _Answer, images: Mapping[str, bytes], cell: str
    ) -> UpstreamFailed | None:
        """Stream the answer, again and again while there is an upstream to try; None: it ended."""
        request = job.request.model_copy(update={"path": (*job.request.path, cell)})
        deadline = time.monotonic() + BUSY_S
        failures = 0
        while True:
            try:
                answer.begin()
                async with aclosing(self._upstream.stream(request, images)) as pieces:
                    async for piece in pieces:
                        if (output := answer.take(piece)) is not None:
                            self._publish([(job, output)])
                        if answer.last is not None:
                            return None
                raise UpstreamFailed("The upstream's answer has no end.")
            except UpstreamBusy as busy:
                if time.monotonic() + busy.pause_s > deadline:
                    raise
                await asyncio.sleep(busy.pause_s)
            except UpstreamFailed as error:
                log.warning("job %s: %s", job.id, error)
                failures += 1
                if failures >= TRIES or self._upstream.trouble:
                    return error


class _Answer:
    """An answer while it arrives, from one upstream after the other: what of it is new."""

    def __init__(self, job: RunningJob) -> None:
        self._job = job
        self._told = job.told
        self._tokens = 0
        self._retold = Retold("")
        self.last: Output | None = None
        """The output that ends the job, once it is here."""

    @property
    def usage(self) -> Usage:
        """What is known of it when the upstream does not say."""
        return Usage(0, self._tokens)

    def begin(self) -> None:
        """Start anew: nothing is told before the text goes beyond what was told."""
        self._retold = Retold(self._told)
        self._tokens = 0

    def take(self, piece: Piece) -> Output | None:
        """Turn a piece into an output, None if it brings nothing new; the last one is kept."""
        text = self._retold.push(piece.text)
        self._told += text
        self._tokens += piece.tokens
        output = Output(
            self._job.id,
            text,
            finish_reason=piece.finish_reason,
            usage=(piece.usage or self.usage) if piece.finish_reason else None,
            logprobs=piece.logprobs if text else (),
            tokens=piece.tokens,
        )
        if piece.finish_reason is not None:
            self._retold.end()
            self.last = output
            return None
        return output if text or piece.logprobs else None


def _unexpected(job: RunningJob) -> ErrorBody:
    return WorkerFailed(
        f"The worker failed to pass job {job.id} on. Try again; if it happens again, the operator "
        "finds the reason in the worker's log."
    ).body
