"""`BatchWorker`: an RQ worker that keeps many jobs running at once, in one process.

One thread pops as many jobs as there are free slots, claims them and hands them to the engine,
which keeps the thread that loaded it; a pulse once a second renews the worker's own key and every
running job's lease. RQ's records stay true for RQ's own tools; the terminal event in the job's log
is what readers rely on. Never forks: a forked child cannot use the parent's GPU.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import redis
from redis.exceptions import RedisError
from rq import worker_registration
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker.base import BaseWorker

from broker import channel, feedback, images
from broker.cell import cell_id
from broker.connection import connect
from broker.errors import HeliographError
from broker.queues import GenerateJob, intermediate_key, model_queue
from workers.engines.base import Engine, Upstream
from workers.generation import Generation
from workers.publisher import NO_USAGE, Ended, Publisher
from workers.relay import Relay
from workers.running import Runner, RunningJob
from workers.scheduler import Output

log = logging.getLogger(__name__)

LEASE_S = 6
POP_TIMEOUT_S = 1
DRAIN_S = 3.0
_SWITCH_S = 0.0005
"""The engine's thread gets the interpreter back from the others after so long, not after 5 ms."""


class BatchWorker(BaseWorker):
    """Serves one model: one queue, one engine or upstream, as many jobs as that has slots."""

    job_class = GenerateJob
    log_result_lifespan = False

    def __init__(self, url: str, model: str, worker_id: str, engine: Engine | Upstream) -> None:
        """Connect to the Redis at `url`; nothing is popped before `work`."""
        # Its own client that never repeats a command: a repeated pop would lose a job for a while.
        pops = connect(url, retry=False, socket_timeout_s=POP_TIMEOUT_S + 5.0)
        super().__init__(
            [model_queue(pops, model)],
            name=worker_id,
            connection=pops,
            serializer=JSONSerializer,
            worker_ttl=16,
            log_job_description=False,
        )
        self.redis: redis.Redis = connect(url)
        self.queue: Queue = self.queues[0]
        self.engine = engine
        self.running_jobs: dict[str, RunningJob] = {}
        self.birth_date = now()
        self._slot_freed = threading.Condition()
        self._stopping = threading.Event()
        self._drain_s = DRAIN_S
        self._publisher = Publisher(self.redis, on_ended=self._complete, on_fenced=self._forget)
        self._runner = self._start_runner(engine)

    def _start_runner(self, engine: Engine | Upstream) -> Runner:
        if isinstance(engine, Upstream):
            return Relay(
                engine,
                self._fetch_images,
                self._publisher.put,
                self._give_back,
                partial(cell_id, self.redis),
            )
        return Generation(engine, self._fetch_images, self._publisher.put)

    @property
    def trouble(self) -> str:
        """Why no jobs are taken; empty while they are."""
        return self._runner.trouble

    @property
    def tokens(self) -> int:
        """Tokens published since the start."""
        return self._publisher.tokens

    def get_heartbeat_ttl(self, job: object) -> int:
        """Seconds that a running job's lease lasts without a pulse."""
        return LEASE_S

    def work(self, *_: object, **__: object) -> bool:
        """Serve until a signal asks to stop; then let running jobs end for `DRAIN_S` seconds.

        Redis may go away and come back at any time: the worker waits for it and never exits.

        Raises:
            EngineBroken: the engine is of no more use; running jobs are handed over by then.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        sys.setswitchinterval(_SWITCH_S)
        self._publisher.start()
        try:
            self._run_until_stopped()
        finally:
            self._leave()
        return True

    def _run_until_stopped(self) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="jobs") as pool:
            taking = pool.submit(self._take_jobs)
            try:
                self._runner.run()
            except BaseException:  # nothing that runs here will end by itself
                self._drain_s = 0.0
                raise
            finally:  # an engine that broke must not leave a worker that lives and does nothing
                self._stopping.set()
        taking.result()

    def _leave(self) -> None:
        """Say all that there is to say, and hand over what is not done."""
        self._publisher.stop(timeout_s=2.0)
        try:
            self._hand_over(self.running_jobs.values())
            self.register_death()  # type: ignore[no-untyped-call]
        except RedisError as error:
            log.warning("Redis does not answer, leaving without a word: %s", error)

    def _take_jobs(self) -> None:
        """Take jobs until asked to stop; then wait for the running ones, and stop the engine."""
        try:
            self._take_until_stopped()
            deadline = time.monotonic() + self._drain_s
            with self._slot_freed:
                while self.running_jobs and (left := deadline - time.monotonic()) > 0:
                    self._slot_freed.wait(left)
        finally:
            self._runner.stop()

    def _take_until_stopped(self) -> None:
        pause_s = 0.1
        while not self._stopping.is_set():
            try:
                self._take()
                pause_s = 0.1
            except RedisError as error:
                log.warning("Redis does not answer, trying again in %.1f s: %s", pause_s, error)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, 2.0)

    def _on_signal(self, number: int, _: object) -> None:
        log.info("got %s, no new jobs are taken", signal.Signals(number).name)
        self._stopping.set()

    def _take(self) -> None:
        with self._slot_freed:
            free = self._runner.slots - len(self.running_jobs)
            if free <= 0 or self._runner.trouble:
                self._slot_freed.wait(POP_TIMEOUT_S)
                return
        job_ids = self._pop(free)
        for job in self._claim(job_ids):
            self.execute_job(job, self.queue)

    def _pop(self, count: int) -> list[str]:
        key, intermediate = self.queue.key, intermediate_key(self.queue.name)
        first: Any = self.connection.blmove(key, intermediate, POP_TIMEOUT_S)
        if first is None:
            return []
        popped = [first]
        if count > 1 and self.connection.llen(key):
            pipe = self.connection.pipeline(transaction=False)
            for _ in range(count - 1):
                pipe.lmove(key, intermediate)
            popped += [raw for raw in pipe.execute() if raw is not None]
        return [raw.decode() for raw in popped]

    def _claim(self, job_ids: Sequence[str]) -> list[GenerateJob]:
        """Claim popped jobs in one round trip; those with nothing left to do are closed here."""
        if not job_ids:
            return []
        jobs = GenerateJob.fetch_many(job_ids, self.connection, serializer=JSONSerializer)
        found = []
        for job_id, job in zip(job_ids, jobs, strict=True):
            if isinstance(job, GenerateJob) and _is_allowed(job):
                found.append(job)
            else:
                self.connection.lrem(intermediate_key(self.queue.name), 1, job_id)
        pipe = self.connection.pipeline(transaction=False)
        executions: list[tuple[Execution, int]] = []
        for job in found:
            execution = Execution.create(job, LEASE_S, pipe, worker_name=self.name)
            job.prepare_for_execution(self.name, pipeline=pipe)
            pipe.lrem(intermediate_key(self.queue.name), 1, job.id)
            executions.append((execution, len(pipe)))
            channel.claim(pipe, job.id, self.name)
        replies = pipe.execute()
        started = []
        for job, (execution, index) in zip(found, executions, strict=True):
            claimed = self._read_claim(job.id, replies[index])
            if claimed is None or claimed.ended:
                self._close([(job, execution)])
                continue
            self.running_jobs[job.id] = RunningJob(
                job,
                execution,
                claimed.request,
                claimed.attempt,
                claimed.token_ids,
                claimed.text,
                claimed.cancelled,
            )
            started.append(job)
        return started

    def _read_claim(self, job_id: str, reply: object) -> channel.Claimed | None:
        try:
            return channel.read_claim(reply)
        except channel.Unreadable as error:
            log.error("job %s is refused: %s", job_id, error.message)
            channel.refuse(self.redis, job_id, error)
            return None

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Hand a claimed job to the engine and return; it completes on the publisher's thread."""
        running = self.running_jobs[job.id]
        if running.cancelled:
            ended = Output(job.id, finish_reason="cancelled", usage=NO_USAGE)
            self._publisher.put([(running, ended)])
        else:
            self._runner.add(running)

    def cancel(self, job_id: str) -> None:
        """End a running job before the next decode step; unknown ids are ignored."""
        if (running := self.running_jobs.get(job_id)) is not None and not running.cancelled:
            self._runner.cancel(running)

    def _fetch_images(self, job: RunningJob) -> Mapping[str, bytes]:
        return images.get(self.redis, job.request.images)

    def _complete(self, ended: Sequence[Ended]) -> None:
        """Close RQ's records of jobs whose terminal event is written, and log the chats."""
        for end in ended:
            self.running_jobs.pop(end.job.id, None)
        with self._slot_freed:
            self._slot_freed.notify()
        try:
            pipe = self.redis.pipeline(transaction=False)
            for end in ended:
                outcome = end.finish_reason or "error"
                job = end.job
                feedback.log_chat(
                    pipe,
                    job.request,
                    self.name,
                    "".join(job.answer),
                    outcome,
                    end.usage,
                    job.timings(),
                    end.error,
                )
            pipe.execute()
            self._close([(end.job.job, end.job.execution) for end in ended])
        except RedisError as error:
            # The reader has the whole answer; RQ's records expire with their lease.
            log.warning("closing %d jobs in RQ failed: %s", len(ended), error)

    def _close(self, jobs: Sequence[tuple[Job, Execution]]) -> None:
        """RQ's success path for a result TTL of 0, for many jobs in one round trip."""
        pipe = self.redis.pipeline(transaction=False)
        for job, execution in jobs:
            execution.delete(job, pipe)
            pipe.delete(job.key, job.execution_registry.key)
        pipe.hincrby(self.key, "successful_job_count", len(jobs))
        pipe.execute()

    def _forget(self, job: RunningJob) -> None:
        log.warning("job %s was taken over by another worker", job.id)
        self._runner.drop(job)
        self._leave_alone(job)

    def _give_back(self, job: RunningJob, reason: HeliographError) -> None:
        """Let another worker, or this one later, go on with a job that cannot go on here."""
        log.warning("job %s goes back to its queue: %s", job.id, reason)
        self._leave_alone(job)
        try:
            self._hand_over([job])
        except RedisError as error:
            log.warning("job %s is taken over when its lease ends: %s", job.id, error)

    def _leave_alone(self, job: RunningJob) -> None:
        if self.running_jobs.get(job.id) is job:
            del self.running_jobs[job.id]
        with self._slot_freed:
            self._slot_freed.notify()

    def renew(self, pipe: redis.client.Pipeline) -> None:
        """Queue on `pipe` the renewal of RQ's worker record and of every running job's lease.

        The whole record is written each time, so that it comes back after Redis lost its data.
        """
        self.last_heartbeat = now()
        pipe.hset(self.key, mapping={**self.serialize(), "state": "busy"})
        pipe.expire(self.key, self.worker_ttl)
        worker_registration.register(self, pipe)
        for running in tuple(self.running_jobs.values()):
            running.execution.heartbeat(self.queue.started_job_registry, LEASE_S, pipe)

    def _hand_over(self, jobs: Iterable[RunningJob]) -> None:
        """Let the leases of unfinished jobs run out now, so that another worker goes on."""
        pipe = self.redis.pipeline(transaction=False)
        for running in jobs:
            log.info("job %s is handed over", running.id)
            pipe.zadd(
                self.queue.started_job_registry.key, {running.execution.composite_key: 1}, xx=True
            )
        pipe.execute()


def _is_allowed(job: GenerateJob) -> bool:
    try:
        return job.func is not None
    except Exception as error:
        log.error("job %s is refused: %s", job.id, error)
        return False
