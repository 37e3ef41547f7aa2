"""Notices that nobody is left to answer a job, while its reader waits.

Without a worker there is no janitor either: then the readers see to it that jobs which were to be
started by now are given up.
"""

from __future__ import annotations

import time
from typing import Final

import redis

from broker import cancellation, overdue, patience
from broker.connection import check_writes, redis_errors
from broker.errors import NoLiveWorker, RedisFull, RedisReadOnly, RedisUnavailable
from broker.messages import GenerateRequest
from frontend.fleet import Fleet

ORPHAN_S = 30.0
"""How long a silent job may lack any live worker of its model before its reader is told."""

LOOK_S: Final = 1.0
PROBE_S: Final = 5.0
"""After so long alone Redis is asked whether it takes heartbeats at all."""


class OrphanWatch:
    """Looks after one job for one reader."""

    def __init__(self, client: redis.Redis, fleet: Fleet, request: GenerateRequest) -> None:
        """Assume that somebody serves the job's model."""
        self._client = client
        self._fleet = fleet
        self._request = request
        self.reset()

    def reset(self) -> None:
        """Note that somebody works on the job."""
        self._looked_s = time.monotonic()
        self._alone_since_s: float | None = None

    def look(self) -> None:
        """Look whether anybody may still answer, at most once a second.

        Raises:
            NoLiveWorker: the model has had no live worker for too long; the job is cancelled.
            RedisFull, RedisReadOnly: Redis takes no writes, heartbeats neither.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        try:
            with redis_errors():
                if self._is_given_up(now_s):
                    self._give_up()
        except (RedisFull, RedisReadOnly):
            raise
        except RedisUnavailable:
            self._alone_since_s = None  # not known: the subscriber decides when to give up on Redis

    def _is_given_up(self, now_s: float) -> bool:
        if self._fleet.serves(self._request.model):
            self._alone_since_s = None
            return False
        self._alone_since_s = self._alone_since_s or now_s
        overdue.end(self._client)
        alone_s = now_s - self._alone_since_s
        if alone_s > PROBE_S:
            check_writes(self._client)
        if alone_s <= ORPHAN_S:
            return False
        return alone_s > patience.without_worker_s(self._client, self._request.id)

    def _give_up(self) -> None:
        cancellation.cancel(self._client, self._request.id)
        raise NoLiveWorker(
            f"All workers of model {self._request.model!r} are gone, so job {self._request.id} "
            "was given up. Try again when one is back."
        )
