"""Where jobs stand in their queues, read at most once a second for all who ask in this process.

A queue is read as a whole: with a thousand waiting streams that is one command instead of a
thousand, each of which would search the queue.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import redis

from broker import estimates
from broker.connection import redis_errors
from broker.jobs import Job
from broker.messages import GenerateRequest
from broker.queues import queue_key
from frontend.fleet import Fleet

AGE_S: Final = 1.0
"""How old a place may be that is told."""


@dataclass(frozen=True, slots=True)
class Place:
    """`ahead` jobs are before this one; `eta_s` seconds until its turn, None if not known."""

    ahead: int
    eta_s: float | None


@dataclass(slots=True)
class _View:
    places: dict[str, Place]
    read_s: float


class Line:
    """The queues of all models, as last seen here; every call may raise RedisUnavailable."""

    def __init__(self, client: redis.Redis, fleet: Fleet) -> None:
        """Read queues with `client`; `fleet` knows the rates."""
        self._client = client
        self._fleet = fleet
        self._views: dict[str, _View] = {}

    @redis_errors()
    def place(self, request: GenerateRequest) -> Place | None:
        """Where a job stands, as of the last second; None if it is not waiting."""
        model, now_s = request.model, time.monotonic()
        view = self._views.get(model)
        if view is None or now_s - view.read_s >= AGE_S:
            if view is not None and now_s - view.read_s < 2 * AGE_S:
                view.read_s = now_s  # others who ask meanwhile make do with what was seen before
            view = self._views[model] = _View(self._read(model), now_s)
        return view.places.get(request.id)

    @redis_errors()
    def eta_s(self, job: Job) -> float | None:
        """Seconds until a waiting job's turn; None if it is not waiting, or nothing is known."""
        if job.position is None:
            return None
        return estimates.turn_s(job.position, self._fleet.jobs_per_s(job.request.model))

    def _read(self, model: str) -> dict[str, Place]:
        waiting: Any = self._client.lrange(queue_key(model), 0, -1)
        rate = self._fleet.jobs_per_s(model)
        return {
            raw.decode(): Place(ahead, estimates.turn_s(ahead, rate))
            for ahead, raw in enumerate(waiting)
        }
