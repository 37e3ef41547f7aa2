"""Repairs what the dead leave behind: expired leases, jobs popped but never started or not read.

Also ends jobs that were not started in time. One janitor at a time, under a lock that expires by
Redis's clock. What becomes of jobs whose lease ran out is decided in `workers.deaths`.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import redis

from broker import keys, leases, overdue, readers, registry
from broker.queues import intermediate_key, put_back
from workers import deaths, lock

log = logging.getLogger(__name__)

LOCK_S = 2
"""Twice the time between two sweeps: the next janitor need not wait long for a dead one's turn."""
STRANDED_S = 2.0
"""A popped job that no worker has started after this time is put back."""
AWAY_S = 3.0
"""After so long without Redis, all workers and readers get as long to renew their leases."""


class Janitor:
    """Called once a second by every worker; works only in the one that holds the lock."""

    def __init__(self, client: redis.Redis, worker_id: str) -> None:
        self._client = client
        self._worker_id = worker_id
        self._stranded_since: dict[str, float] = {}
        self._called_s = time.monotonic()
        self._not_before_s = 0.0
        self._server = ""

    def sweep(self) -> None:
        """Repair the queues of all models, if this is the janitor of the moment."""
        if self._was_away() or not self._is_in_turn():
            self._stranded_since.clear()
            return
        self._cancel_unread()
        for worker in registry.vanished(self._client):
            deaths.bury(self._client, worker)
        self._end_overdue()
        seconds, microseconds = self._client.time()
        models: Any = self._client.hkeys(keys.MODELS)
        seen: set[str] = set()
        for model in (raw.decode() for raw in models):
            deaths.sweep(self._client, model, seconds + microseconds / 1e6)
            seen |= self._put_back(model)
        self._stranded_since = {
            job_id: since for job_id, since in self._stranded_since.items() if job_id in seen
        }

    def _is_in_turn(self) -> bool:
        return lock.hold(self._client, keys.JANITOR_LOCK, self._worker_id, LOCK_S)

    def _was_away(self) -> bool:
        """Whether Redis was away a moment ago: leases ran out then without anybody's death."""
        before, self._called_s = self._called_s, time.monotonic()
        told: Any = self._client.info("server")
        server, self._server = self._server, told["run_id"]
        if self._called_s - before > AWAY_S or server not in ("", self._server):
            self._not_before_s = self._called_s + AWAY_S
        return self._called_s < self._not_before_s or told["uptime_in_seconds"] < AWAY_S

    def _cancel_unread(self) -> None:
        for job_id in readers.cancel_overdue(self._client):
            log.info("job %s: nobody has come back to it in time, it is cancelled", job_id)

    def _end_overdue(self) -> None:
        for job_id in overdue.end(self._client):
            log.info("job %s was not started in time, it is given up", job_id)

    def _put_back(self, model: str) -> set[str]:
        popped: Any = self._client.lrange(intermediate_key(model), 0, -1)
        if not popped:
            return set()
        started = {lease.job_id for lease in leases.read(self._client, model)}
        waiting = {raw.decode() for raw in popped} - started
        now = time.monotonic()
        for job_id in waiting:
            if now - self._stranded_since.setdefault(job_id, now) > STRANDED_S:
                log.warning("job %s was popped but never started; it is queued again", job_id)
                put_back(self._client, model, job_id)
        return waiting
