"""RQ's records of a worker's jobs: popped, claimed, renewed, closed, handed over.

RQ's records stay true for RQ's own tools and for the janitor, who finds in them what a dead worker
leaves; readers rely on the terminal event in a job's log. Runs no job.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import redis
from redis.client import Pipeline
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from broker import ages, channel, leases, loss, overdue
from broker.errors import JobLost
from broker.events import Claim, EventId, Failed, decode_message
from broker.loss import Fate
from broker.queues import GenerateJob, intermediate_key, put_back
from workers import deaths
from workers.running import RunningJob

log = logging.getLogger(__name__)

LEASE_S = 4
POP_TIMEOUT_S = 1


class Intake:
    """Takes jobs from one queue for one worker, and gives them back."""

    def __init__(self, queue: Queue, client: redis.Redis, worker: str) -> None:
        """Pop with the queue's own client, which must not repeat a pop, and write with `client`."""
        self._queue = queue
        self._pops = queue.connection
        self._client = client
        self._worker = worker

    @property
    def model(self) -> str:
        """Whose jobs they are."""
        return self._queue.name

    def pop(self, count: int) -> list[str]:
        """Wait up to `POP_TIMEOUT_S` for a job; return the ids of up to `count` that wait."""
        key, intermediate = self._queue.key, intermediate_key(self._queue.name)
        first: Any = self._pops.blmove(key, intermediate, POP_TIMEOUT_S)
        if first is None:
            return []
        popped = [first]
        if count > 1 and self._pops.llen(key):
            pipe = self._pops.pipeline(transaction=False)
            for _ in range(count - 1):
                pipe.lmove(key, intermediate)
            popped += [raw for raw in pipe.execute() if raw is not None]
        return [raw.decode() for raw in popped]

    def put_back(self, job_ids: Sequence[str]) -> None:
        """Return popped jobs to the front of the queue, in their order."""
        for job_id in reversed(job_ids):
            put_back(self._client, self._queue.name, job_id)

    def claim(self, job_ids: Sequence[str], *, spare_suspects: bool = False) -> list[RunningJob]:
        """Claim popped jobs in one round trip; those with nothing left to do are closed here.

        With `spare_suspects`, those that may kill a worker are left to others; without, one is
        taken. What is left goes to the end of the queue.
        """
        if not job_ids:
            return []
        found = self._leave_suspects(self._fetch(job_ids), spare_suspects)
        pipe = self._pops.pipeline(transaction=False)
        executions: list[tuple[Execution, int]] = []
        for job in found:
            execution = Execution.create(job, LEASE_S, pipe, worker_name=self._worker)
            job.prepare_for_execution(self._worker, pipeline=pipe)
            pipe.lrem(intermediate_key(self._queue.name), 1, job.id)
            executions.append((execution, len(pipe)))
            channel.claim(pipe, job.id, self._worker)
            ages.ask(pipe, job.id)
        replies = pipe.execute()
        started = []
        for job, (execution, index) in zip(found, executions, strict=True):
            claimed = self._read_claim(job.id, replies[index])
            if claimed is None or claimed.ended:
                self.close(job, execution)
            else:
                waited_s = ages.read(replies[index + 1])
                started.append(_running(job, execution, claimed, waited_s))
        return started

    def _leave_suspects(self, jobs: list[GenerateJob], spare: bool) -> list[GenerateJob]:
        suspects = [job for job in jobs if leases.SUSPECT in job.meta][0 if spare else 1 :]
        for job in suspects:
            put_back(self._client, self._queue.name, job.id, at_front=False)
        return [job for job in jobs if job not in suspects]

    def _fetch(self, job_ids: Sequence[str]) -> list[GenerateJob]:
        jobs = GenerateJob.fetch_many(job_ids, self._pops, serializer=JSONSerializer)
        found = []
        for job_id, job in zip(job_ids, jobs, strict=True):
            if isinstance(job, GenerateJob) and _is_allowed(job):
                found.append(job)
            else:
                self._pops.lrem(intermediate_key(self._queue.name), 1, job_id)
        return found

    def _read_claim(self, job_id: str, reply: object) -> channel.Claimed | None:
        try:
            claimed = channel.read_claim(reply)
        except channel.Unreadable as error:
            log.error("job %s is refused: %s", job_id, error.message)
            channel.refuse(self._client, job_id, error)
            return None
        if claimed is None or not claimed.missed_s or claimed.ended or claimed.cancelled:
            return claimed
        log.info("job %s came too late, it is not started", job_id)
        overdue.refuse(self._client, claimed)
        return None

    def renew(self, pipe: Pipeline, jobs: Iterable[RunningJob]) -> None:
        """Queue on `pipe` the renewal of the leases of running jobs."""
        held = [running.lease for running in jobs]
        if held:
            leases.renew(pipe, self._queue.name, held, LEASE_S)

    def close(self, job: Job, execution: Execution, pipe: Pipeline | None = None) -> None:
        """Take RQ's success path for a result TTL of 0, or queue it on a pipe of others."""
        queued = self._client.pipeline(transaction=False) if pipe is None else pipe
        execution.delete(job, queued)
        queued.delete(job.key, job.execution_registry.key)
        if pipe is None:
            queued.execute()

    def hand_over(self, jobs: Sequence[RunningJob]) -> None:
        """Put unfinished jobs back to the front of the queue, in their order, for other workers."""
        pipe = self._client.pipeline(transaction=False)
        for running in reversed(jobs):
            log.info("job %s is handed over", running.id)
            leases.give_back(pipe, self._queue.name, running.lease, attempt=running.attempt)
        pipe.execute()

    def restore(self, running: RunningJob) -> Fate:
        """Write a running job's log again, of which Redis has lost the end, see `broker.loss`.

        A job whose log cannot be made whole is ended with an error.
        """
        fate = loss.restore(
            self._client,
            running.lease,
            self._queue.name,
            self._worker,
            [decode_message(each) for each in running.messages],
            running.logged,
            ttl_s=LEASE_S,
        )
        if fate is Fate.TORN:
            channel.append(self._client, [(running.id, Failed(running.next_id(), JobLost().body))])
        return fate

    def keep(self, running: RunningJob) -> Fate:
        """Take back a job that this worker popped although it runs it: Redis forgot the claim."""
        fate = self.restore(running)
        self._client.lrem(intermediate_key(self._queue.name), 1, running.id)
        return fate

    def give_up(self, running: RunningJob) -> None:
        """Let a job go whose upstreams failed: the janitor queues it within a second.

        What the publisher still holds of the job is thereby written before the next attempt.
        """
        leases.let_go(self._client, self._queue.name, running.lease)

    def settle(self, jobs: Iterable[RunningJob]) -> None:
        """Decide about unfinished jobs when this worker dies, see `workers.deaths`."""
        held = [running.lease for running in jobs]
        deaths.settle(self._client, self._queue.name, self._worker, held)


def _running(
    job: Job, execution: Execution, claimed: channel.Claimed, waited_s: float
) -> RunningJob:
    running = RunningJob(
        job,
        execution,
        claimed.request,
        claimed.attempt,
        claimed.token_ids,
        claimed.text,
        claimed.cancelled,
        claimed.failures,
        claimed.logged,
        waited_s,
    )
    running.write(Claim(EventId(claimed.attempt, 0), execution.worker_name))
    return running


def _is_allowed(job: GenerateJob) -> bool:
    try:
        return job.func is not None
    except Exception as error:
        log.error("job %s is refused: %s", job.id, error)
        return False
