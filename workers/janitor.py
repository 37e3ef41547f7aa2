"""Repairs what the dead leave behind: expired leases, jobs popped but never started or not read.

One janitor at a time, under a lock that expires by Redis's clock. RQ's own clean-up re-queues an
abandoned job or, when its retries are used up, fails it; then the reader is told here.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import redis
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from broker import channel, keys, readers
from broker.errors import WorkerFailed
from broker.queues import GenerateJob, intermediate_key, put_back
from workers import lock

log = logging.getLogger(__name__)

STRANDED_S = 3.0
"""A popped job that no worker has started after this time is put back."""


SETTLE_S = 5.0
"""After a pause of sweeping, Redis may have been away: readers get this time to come back."""


class Janitor:
    """Called once a second by every worker; works only in the one that holds the lock."""

    def __init__(self, client: redis.Redis, worker_id: str) -> None:
        self._client = client
        self._worker_id = worker_id
        self._stranded_since: dict[str, float] = {}
        self._swept_at = self._steady_since = -SETTLE_S

    def sweep(self) -> None:
        """Repair the queues of all models, if this is the janitor of the moment."""
        if not lock.hold(self._client, keys.JANITOR_LOCK, self._worker_id):
            self._stranded_since.clear()
            return
        self._cancel_unread()
        seconds, microseconds = self._client.time()
        models: Any = self._client.hkeys(keys.MODELS)
        seen: set[str] = set()
        for model in (raw.decode() for raw in models):
            registry = StartedJobRegistry(
                model, self._client, job_class=GenerateJob, serializer=JSONSerializer
            )
            registry.cleanup(seconds + microseconds / 1e6, exception_handlers=[self._abandoned])
            seen |= self._put_back(model, registry)
        self._stranded_since = {
            job_id: since for job_id, since in self._stranded_since.items() if job_id in seen
        }

    def _cancel_unread(self) -> None:
        now = time.monotonic()
        if now - self._swept_at > SETTLE_S:
            self._steady_since = now
        self._swept_at = now
        if now - self._steady_since >= SETTLE_S:
            for job_id in readers.cancel_overdue(self._client):
                log.info("job %s: nobody has come back to it in time, it is cancelled", job_id)

    def _abandoned(self, job: Job, *_: object) -> bool:
        log.warning("job %s was abandoned by its worker, %s retries left", job.id, job.retries_left)
        if not job.retries_left:
            error = WorkerFailed(
                f"The workers that ran job {job.id} died again and again, so it was given up. "
                "Try again, or change the request if that does not help."
            )
            channel.fail(self._client, job.id, self._worker_id, error.body)
        return True

    def _put_back(self, model: str, registry: StartedJobRegistry) -> set[str]:
        popped: Any = self._client.lrange(intermediate_key(model), 0, -1)
        if not popped:
            return set()
        started = set(registry.get_job_ids(cleanup=False))
        waiting = {raw.decode() for raw in popped} - started
        now = time.monotonic()
        for job_id in waiting:
            if now - self._stranded_since.setdefault(job_id, now) > STRANDED_S:
                log.warning("job %s was popped but never started; it is queued again", job_id)
                put_back(self._client, model, job_id)
        return waiting
