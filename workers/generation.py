"""The engine's loop: takes prepared sequences and cancellations, steps the scheduler, hands on.

It must run on the thread that loaded the engine: OpenMP keeps a team of threads for each thread
that computes, and once there are more of them than cores they sleep at every barrier instead of
spinning, which made a decode step more than twice as long on two cores. Pictures are prepared in a
pool beside it, so that a big one does not stop running streams. Knows neither Redis nor RQ.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from broker.errors import AnswerDiffers, HeliographError, WorkerFailed
from workers.engines.base import Engine
from workers.running import FetchImages, Publish, Retold, RunningJob
from workers.scheduler import Output, Scheduler
from workers.sequence import Sequence

log = logging.getLogger(__name__)


class Generation:
    """Runs jobs on one engine; every job that was added gets exactly one last output."""

    def __init__(
        self,
        engine: Engine,
        fetch_images: FetchImages,
        publish: Publish,
    ) -> None:
        self._engine = engine
        self._fetch_images = fetch_images
        self._publish = publish
        self._scheduler = Scheduler(engine)
        self._jobs: dict[str, RunningJob] = {}
        self._retold: dict[str, Retold] = {}
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._at_work_since_s: float | None = None
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")

    @property
    def slots(self) -> int:
        """See `Runner.slots`."""
        return self._engine.slots

    @property
    def trouble(self) -> str:
        """See `Runner.trouble`; an engine that cannot go on ends its process instead."""
        return ""

    @property
    def pass_s(self) -> float:
        """See `Runner.pass_s`."""
        since_s = self._at_work_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def add(self, job: RunningJob) -> None:
        """Prepare a job and run it as soon as a slot is free."""
        if job.request.images:
            self._pool.submit(self._prepare, job)
        else:
            self._commands.put(lambda: self._prepare_here(job))

    def cancel(self, job: RunningJob) -> None:
        """End a job before the next decode step; it ends with finish reason "cancelled"."""
        job.cancelled = True
        self._commands.put(lambda: self._cancel(job.id))

    def drop(self, job: RunningJob) -> None:
        """Forget a job that somebody else has taken over; nothing more is published for it."""
        self._commands.put(lambda: self._drop(job))

    def stop(self) -> None:
        """Let `run` return after the current step; running jobs are left as they are."""
        self._commands.put(None)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, job: RunningJob) -> None:
        """Prepare in the pool; whatever goes wrong ends this job and no other."""
        sequence = self._try_prepare(job)
        if sequence is not None:
            self._commands.put(lambda: self._schedule(job, sequence))

    def _prepare_here(self, job: RunningJob) -> None:
        sequence = self._try_prepare(job)
        if sequence is not None:
            self._schedule(job, sequence)

    def _try_prepare(self, job: RunningJob) -> Sequence | None:
        try:
            images = self._fetch_images(job)
            return self._engine.prepare(job.request, images, job.resume_ids)
        except HeliographError as error:
            failure = error
        except Exception:
            log.exception("job %s could not be prepared", job.id)
            failure = WorkerFailed(
                f"The worker failed to prepare job {job.id}. Try again; if it happens again, "
                "the operator finds the reason in the worker's log."
            )
        self._publish([(job, Output(job.id, error=failure.body))])
        return None

    def _schedule(self, job: RunningJob, sequence: Sequence) -> None:
        self._jobs[job.id] = job
        if job.told and not job.resume_ids:
            self._retold[job.id] = Retold(job.told)
        self._scheduler.add(sequence)
        if job.cancelled:
            self._scheduler.cancel(job.id)

    def _cancel(self, job_id: str) -> None:
        self._scheduler.cancel(job_id)

    def _drop(self, job: RunningJob) -> None:
        if self._jobs.get(job.id) is job:
            self._forget(job.id)
            self._scheduler.drop(job.id)

    def run(self) -> None:
        """Work until `stop`, on the thread that loaded the engine."""
        while True:
            while not self._scheduler.has_work or not self._commands.empty():
                self._at_work_since_s = None
                command = self._commands.get()
                if command is None:
                    return
                self._at_work_since_s = time.monotonic()
                command()
            self._at_work_since_s = time.monotonic()
            self._publish(self._outputs())

    def _outputs(self) -> list[tuple[RunningJob, Output]]:
        told = []
        for output in self._scheduler.step():
            job = self._jobs.get(output.request_id)
            if job is None:
                continue
            if job.id in self._retold:
                output = self._retell(output)
            told.append((job, output))
            if output.finish_reason or output.error:
                self._forget(job.id)
        return told

    def _retell(self, output: Output) -> Output:
        """Take out what an upstream told before this engine took the job over."""
        retold = self._retold[output.request_id]
        try:
            text = retold.push(output.text)
            if output.finish_reason and output.finish_reason != "cancelled":
                retold.end()
            return replace(output, text=text, logprobs=output.logprobs if text else ())
        except AnswerDiffers as error:
            self._commands.put(lambda: self._cancel(output.request_id))
            return Output(output.request_id, error=error.body)

    def _forget(self, job_id: str) -> None:
        del self._jobs[job_id]
        self._retold.pop(job_id, None)
