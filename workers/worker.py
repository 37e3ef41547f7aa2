"""`BatchWorker`: an RQ worker that keeps many jobs running at once, in one process.

One thread takes jobs as there are free slots (`workers.taking`) and hands them to the engine, which
keeps the thread that loaded it; a pulse once a second renews the worker's own key and every
running job's lease. RQ's records stay true for RQ's own tools; the terminal event in the job's log
is what readers rely on. Never forks: a forked child cannot use the parent's GPU.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial

import redis
from redis.exceptions import RedisError
from rq import worker_registration
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker.base import BaseWorker

from broker import history, images
from broker.cell import cell_id
from broker.connection import connect
from broker.errors import HeliographError
from broker.loss import Fate
from broker.outage import Outage
from broker.queues import GenerateJob, model_queue
from workers import ending
from workers.engines.base import Engine, EngineBroken, Upstream
from workers.generation import Generation
from workers.intake import LEASE_S, POP_TIMEOUT_S, Intake
from workers.last_lines import LastLines
from workers.publisher import NO_USAGE, Ended, Publisher
from workers.relay import Relay
from workers.running import Runner, RunningJob
from workers.scheduler import Output
from workers.taking import Taking
from workers.turnover import Turnover

log = logging.getLogger(__name__)

_SWITCH_S = 0.0005
"""The engine's thread gets the interpreter back from the others after so long, not after 5 ms."""


class BatchWorker(BaseWorker):
    """Serves one model: one queue, one engine or upstream, as many jobs as that has slots."""

    job_class = GenerateJob
    log_result_lifespan = False

    def __init__(
        self,
        url: str,
        model: str,
        worker_id: str,
        engine: Engine | Upstream,
        drain_s: float,
        last_lines: LastLines,
        outage: Outage,
    ) -> None:
        """Connect to the Redis at `url`; nothing is popped before `work`.

        Asked to stop, it lets running jobs go on for `drain_s` seconds. `last_lines` has what is
        logged from the start of the process, `outage` is the one of this process.
        """
        # Its own client that never repeats a command: a repeated pop would lose a job for a while.
        pops = connect(url, retry=False, socket_timeout_s=POP_TIMEOUT_S + 5.0)
        super().__init__(
            [model_queue(pops, model)],
            name=worker_id,
            connection=pops,
            serializer=JSONSerializer,
            worker_ttl=16,
            log_job_description=False,
            prepare_for_work=False,  # it would ask Redis, which may be away at the moment
        )
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self.redis: redis.Redis = connect(url)
        self.queue: Queue = self.queues[0]
        self._intake = Intake(self.queue, self.redis, worker_id)
        self.engine = engine
        self.running_jobs: dict[str, RunningJob] = {}
        self.birth_date = now()
        self._took: Future[None] | None = None
        self._drain_s = drain_s
        self._is_broken = False
        self._last_lines = last_lines
        self._turnover = Turnover()
        self._recorder = history.Recorder(worker_id, time.monotonic)
        self.outage = outage
        self._publisher = Publisher(
            self.redis,
            on_ended=self._complete,
            on_fenced=self._forget,
            on_cut=self._restore,
            outage=outage,
        )
        self._runner = self._start_runner(engine)
        self._taking = Taking(
            self.redis,
            self._intake,
            self._runner,
            self.running_jobs,
            self._keep,
            self._start,
            outage,
        )

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
    def pass_s(self) -> float:
        """Seconds that the engine has been at one thing; 0 while it waits for jobs."""
        return self._runner.pass_s

    @property
    def is_mute(self) -> bool:
        """Whether nothing that is computed can be told any more."""
        return self._publisher.has_failed

    @property
    def tokens(self) -> int:
        """Tokens published since the start."""
        return self._publisher.tokens

    @property
    def job_s(self) -> float:
        """Seconds that a job holds its slot; 0 if that is not known, or no job is taken."""
        return 0.0 if self._taking.is_paused else self._turnover.mean_s

    @property
    def is_draining(self) -> bool:
        """Whether it takes no more jobs and ends when the running ones have."""
        return self._taking.is_stopping

    def get_heartbeat_ttl(self, job: object) -> int:
        """Seconds that a running job's lease lasts without a pulse."""
        return LEASE_S

    def work(self, *_: object, **__: object) -> bool:
        """Serve until a signal asks to stop; then let running jobs go on for a while.

        Redis may go away and come back at any time: the worker waits for it and never exits.

        Raises:
            EngineBroken: this process is of no more use; its death is counted for running jobs.
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
            self._took = pool.submit(self._take_jobs)
            try:
                with self._breaking("the engine"):
                    self._runner.run()
            finally:  # an engine that broke must not leave a worker that lives and does nothing
                self._taking.stop()
        with self._breaking("taking jobs"):
            self._took.result()

    @contextmanager
    def _breaking(self, what: str) -> Iterator[None]:
        """Break this worker if an error comes out: nothing that runs here will end by itself."""
        try:
            yield
        except BaseException as error:
            self._drain_s = 0.0
            self._is_broken = True
            if isinstance(error, EngineBroken) or not isinstance(error, Exception):
                log.error("%s broke: %s", what, error)
                raise
            log.exception("%s broke", what)
            raise EngineBroken(f"{what} broke: {error!r}") from error

    def _leave(self) -> None:
        """Say all that there is to say, and hand over what is not done."""
        self._publisher.stop(timeout_s=2.0)
        left = tuple(self.running_jobs.values())
        self.running_jobs.clear()  # before their leases end: a pulse would renew them
        try:
            if self._is_broken:
                pipe = self.redis.pipeline()
                self._last_lines.write(pipe)
                pipe.execute()
                self._intake.settle(left)
            else:
                self._intake.hand_over(left)
            self.register_death()  # type: ignore[no-untyped-call]
        except RedisError as error:
            log.warning("Redis does not answer, leaving without a word: %s", error)

    def abandon(self) -> None:
        """Give all jobs away, as one whose engine broke; the process must end then."""
        self._is_broken = True
        self._drain_s = 0.0
        self._taking.stop()
        if self._took is not None:  # a pop under way would get the very jobs that are given away
            wait([self._took], POP_TIMEOUT_S + 0.5)
        self._leave()

    def _take_jobs(self) -> None:
        """Take jobs until asked to stop; then wait for the running ones, and stop the engine."""
        try:
            self._taking.run()
            self._taking.wait_until_idle(self._drain_s)
        finally:
            self._runner.stop()

    def _on_signal(self, number: int, _: object) -> None:
        self.drain(signal.Signals(number).name)

    def drain(self, reason: str) -> None:
        """Take no new jobs, and let `work` return when the running ones have ended."""
        if not self.is_draining:
            log.info("got %s, no new jobs are taken", reason)
            self._taking.stop()

    def pause(self, paused: bool) -> None:
        """Take no new jobs for a while; running ones go on."""
        self._taking.pause(paused)

    def _keep(self, job_id: str) -> bool:
        """Go on with a job that was popped although it runs here; False if it does not."""
        running = self.running_jobs.get(job_id)
        return running is not None and self._settle(running, self._intake.keep(running))

    def _start(self, claimed: Sequence[RunningJob]) -> None:
        self.running_jobs |= {job.id: job for job in claimed}
        for job in claimed:
            self.execute_job(job.job, self.queue)

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
        """Free the slots of jobs whose terminal event is written, then see to the rest."""
        for end in ended:
            self.running_jobs.pop(end.job.id, None)
            self._turnover.note(time.monotonic() - end.job.began_s)
            if end.job.first_token_s is not None:
                self._recorder.note(end.job.timings().first_token_s)
        self._taking.note_freed()
        ending.close(self.redis, self._intake, self.name, self.key, ended)

    def _forget(self, job: RunningJob) -> None:
        if self.running_jobs.get(job.id) is job:
            log.warning("job %s was taken over by another worker", job.id)
        self._runner.drop(job)
        self._leave_alone(job)

    def _restore(self, job: RunningJob) -> bool:
        """Write a job's log again that Redis has lost the end of; False if the job is over here."""
        return self._settle(job, self._intake.restore(job))

    def _settle(self, job: RunningJob, fate: Fate) -> bool:
        match fate:
            case Fate.RESTORED:
                log.info("job %s: Redis had lost a part of its log, which is whole again", job.id)
                return True
            case Fate.FENCED:
                self._forget(job)
            case Fate.GONE | Fate.TORN:
                self.lose(job)
        return False

    def lose(self, job: RunningJob) -> None:
        """Free the slot of a job that Redis has lost, and leave nothing of it behind."""
        log.warning("job %s ends here: Redis has lost it", job.id)
        self._runner.drop(job)
        self._leave_alone(job)
        try:
            self._intake.close(job.job, job.execution)
        except RedisError as error:
            log.warning("the lease of job %s runs out by itself: %s", job.id, error)

    def _give_back(self, job: RunningJob, reason: HeliographError) -> None:
        """Let another worker, or this one later, go on with a job that cannot go on here."""
        log.warning("job %s goes back to its queue: %s", job.id, reason)
        self._leave_alone(job)
        try:
            self._intake.give_up(job)
        except RedisError as error:
            log.warning("job %s is taken over when its lease ends: %s", job.id, error)

    def _leave_alone(self, job: RunningJob) -> None:
        if self.running_jobs.get(job.id) is job:
            del self.running_jobs[job.id]
        self._taking.note_freed()

    def renew(self, pipe: redis.client.Pipeline) -> None:
        """Queue on `pipe` the renewal of RQ's worker record and of every running job's lease.

        The whole record is written each time, so that it comes back after Redis lost its data.
        Now and then a sample of what was done is added to the model's history.
        """
        self.last_heartbeat = now()
        pipe.hset(self.key, mapping={**self.serialize(), "state": "busy"})
        pipe.expire(self.key, self.worker_ttl)
        worker_registration.register(self, pipe)
        self._last_lines.write(pipe)
        self._intake.renew(pipe, tuple(self.running_jobs.values()))
        if (sample := self._recorder.sample(self.tokens, len(self.running_jobs))) is not None:
            history.add(pipe, self.queue.name, sample)
