"""What operators see and do on the fleet page: workers, queues, the last hour, pause and drain.

Anyone may look. Orders are for those who have logged in with the operator's token; that is kept by
their browser as a signed note, so that every process of the page knows it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass

from broker import keys, orders, registry
from broker.connection import connect, redis_errors
from broker.errors import InvalidRequest
from broker.history import History, Point
from broker.messages import ModelInfo, WorkerInfo
from broker.settings import Settings

LOGIN_S = 12 * 3600
"""How long a login lasts."""


class NotAnOperator(InvalidRequest):
    """Whoever gives the order has not logged in, or too long ago."""

    status = 403
    code = "not_an_operator"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker, and how many seconds ago it was heard of."""

    info: WorkerInfo
    silent_s: float


@dataclass(frozen=True, slots=True)
class FleetView:
    """All there is at a moment; `paused` are models whose workers take no jobs."""

    workers: tuple[WorkerView, ...]
    models: tuple[ModelInfo, ...]
    paused: frozenset[str]


class Operations:
    """One for each process; every call may raise RedisUnavailable."""

    def __init__(self, settings: Settings) -> None:
        """Connect to Redis with the first call."""
        self._client = connect(settings.url)
        self._history = History(self._client)
        self._token = settings.operator_token.encode()

    def close(self) -> None:
        """Close the connections; for tests and short programs."""
        self._client.close()

    def fleet(self) -> FleetView:
        """Workers by model and id, those that failed within the last minute included."""
        with redis_errors():
            workers = registry.workers(self._client) + registry.down(self._client)
            models = registry.models(self._client)
            paused = orders.paused(self._client)
            pipe = self._client.pipeline(transaction=False)
            for info in workers:
                pipe.pttl(keys.worker(info.id))
            left_ms = pipe.execute()
        views = [
            WorkerView(info, max(0.0, registry.lifetime_s(info) - left / 1000))
            for info, left in zip(workers, left_ms, strict=True)
        ]
        views.sort(key=lambda view: (view.info.model, view.info.id))
        return FleetView(tuple(views), tuple(models), frozenset(paused))

    def last_hour(self, model: str) -> list[Point]:
        """A model's last hour, in parts of 30 seconds."""
        with redis_errors():
            return self._history.points(model)

    @property
    def may_log_in(self) -> bool:
        """Whether there is a token at all."""
        return bool(self._token)

    def log_in(self, token: str) -> str | None:
        """The note for the browser of somebody who knows the token, else None."""
        if not self._token or not hmac.compare_digest(token.encode(), self._token):
            return None
        until = str(int(time.time()) + LOGIN_S)
        return f"{until}.{self._sign(until)}"

    def is_operator(self, note: str | None) -> bool:
        """Whether a browser's note is one of ours and still good."""
        until, _, signature = (note or "").partition(".")
        if not self._token or not until.isascii() or not until.isdigit() or len(until) > 20:
            return False
        is_ours = hmac.compare_digest(signature.encode(), self._sign(until).encode())
        return is_ours and int(until) > time.time()

    def _sign(self, until: str) -> str:
        return hmac.new(self._token, f"operator {until}".encode(), hashlib.sha256).hexdigest()

    def drain(self, note: str | None, worker_id: str) -> bool:
        """Have a worker end when its running jobs have; whether it is known.

        Raises:
            NotAnOperator: the note is not good.
        """
        self._check(note)
        with redis_errors():
            return orders.drain(self._client, worker_id)

    def pause(self, note: str | None, model: str) -> bool:
        """Have a model's workers take no jobs; whether it was ever served here.

        Raises:
            NotAnOperator: the note is not good.
        """
        self._check(note)
        with redis_errors():
            return orders.pause(self._client, model)

    def resume(self, note: str | None, model: str) -> bool:
        """Let a model's workers take jobs again; whether it was paused.

        Raises:
            NotAnOperator: the note is not good.
        """
        self._check(note)
        with redis_errors():
            return orders.resume(self._client, model)

    def _check(self, note: str | None) -> None:
        if not self.is_operator(note):
            raise NotAnOperator("This is for operators. Log in with the operator's token first.")
