"""Puts requests on their models' queues: all that a job begins with, in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis
from redis.client import Pipeline
from redis.exceptions import WatchError
from rq import Queue

from broker import ages, idempotency, keys, patience
from broker.entrance import Entrance
from broker.errors import HeliographError
from broker.idempotency import Once
from broker.messages import GenerateRequest
from broker.patience import Patience
from broker.queues import model_queue, new_job


class Submitter:
    """Puts requests on their models' queues.

    A submission is one transaction: the request's record and the RQ job appear together or not at
    all. The client must not retry, since RQ's enqueue would then happen twice.
    """

    def __init__(self, client: redis.Redis, *, max_queue_length: int) -> None:
        """Use `client` (made with retry=False); refuse beyond `max_queue_length` waiting jobs."""
        self._client = client
        self._max = max_queue_length
        self._queues: dict[str, tuple[Queue, Entrance]] = {}

    def submit(
        self,
        request: GenerateRequest,
        on_disconnect: str = "",
        once: Once | None = None,
        *,
        may_wait: Patience = patience.ENDLESS,
        jobs_per_s: float = 0.0,
        check: Callable[[Pipeline], None] | None = None,
        also: Callable[[Pipeline], None] | None = None,
    ) -> str:
        """Enqueue a request, unless its `once` has started a job already; return the job's id.

        `on_disconnect` is written down for `readers`; empty if they have no say. `jobs_per_s` is
        the model's rate, 0 if it is not known: whoever is refused is told by it when to come back.
        `also` queues more, to be done in the same transaction as the last thing; `check` may watch
        keys until then, or raise.

        Raises:
            KeyReused: `once` has started a job with another body.
            QueueFull: the model's queue is at its bound.
            RedisError: Redis did not answer; the job may or may not have been enqueued.
        """
        queue, entrance = self._queue(request.model)

        def write(pipe: Pipeline) -> None:
            self._write(pipe, queue, request, on_disconnect)
            patience.write(pipe, request.id, may_wait)
            if once is not None:
                pipe.set(once.name, once.value(request.id), ex=keys.JOB_TTL_S)
            if also is not None:
                also(pipe)

        place = entrance.enter(jobs_per_s)
        try:
            started = self._enqueue(once, check, write, entrance, place)
        except HeliographError:
            entrance.leave(self._client, place)
            raise
        if started is None:
            return request.id
        entrance.leave(self._client, place)
        return started

    def _queue(self, model: str) -> tuple[Queue, Entrance]:
        if model not in self._queues:
            queue = model_queue(self._client, model)
            self._queues[model] = queue, Entrance(self._client, queue.key, model, self._max)
        return self._queues[model]

    def _enqueue(
        self,
        once: Once | None,
        check: Callable[[Pipeline], None] | None,
        write: Callable[[Pipeline], None],
        entrance: Entrance,
        place: str,
    ) -> str | None:
        """Write all of a submission, or return the id of the job that was started already."""
        while True:
            with self._client.pipeline() as pipe:
                if once is not None:
                    pipe.watch(once.name)  # type: ignore[no-untyped-call]
                    if (started := idempotency.find(pipe, once)) is not None:
                        return started
                if check is not None:
                    check(pipe)
                write(pipe)
                entrance.leave(pipe, place)
                ahead, asked_s = entrance.ask_ahead(pipe), time.monotonic()
                try:
                    *_, reply = pipe.execute()
                except WatchError:  # somebody else was quicker
                    continue
                if ahead:
                    entrance.note_ahead(ahead, reply, asked_s)
                return None

    def _write(
        self, pipe: Pipeline, queue: Queue, request: GenerateRequest, on_disconnect: str
    ) -> None:
        job = new_job(self._client, request.id)
        queue.enqueue_job(job, pipeline=pipe)  # first: RQ opens the transaction itself
        record = {
            "request": request.model_dump_json(),
            "state": "queued",
            "model": request.model,
            "on_disconnect": on_disconnect,
        }
        pipe.hset(keys.job(request.id), mapping=record)  # type: ignore[arg-type]
        ages.stamp(pipe, request.id)
        pipe.expire(keys.job(request.id), keys.JOB_TTL_S)
