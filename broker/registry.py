"""The worker registry: heartbeat keys that expire, and the models that live workers serve.

A worker is alive as long as its hash exists and does not say that it failed or can take no jobs;
there is no other truth about it. Readers sweep ids whose hash is gone, and pass over a record that
they cannot read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import redis
from redis.client import Pipeline

from broker import keys, records
from broker.errors import ModelNotFound, NoLiveWorker
from broker.messages import ModelInfo, WorkerInfo
from broker.queues import queue_key

_DOWN = ("unavailable", "failed")
_TTL_S = {"loading": keys.LOADING_WORKER_TTL_S, "failed": keys.FAILED_WORKER_TTL_S}
_OVERDUE_S = 1.5
"""A worker that has been silent for so long has missed a heartbeat."""


def announce(pipe: Pipeline, info: WorkerInfo) -> None:
    """Queue on `pipe` one heartbeat: the worker's record with a fresh lifetime.

    One that loads may be silent for longer, and the record of one that failed, which is its last,
    stays for a minute.
    """
    fields = {key: _plain(value) for key, value in info.model_dump().items()}
    pipe.hset(keys.worker(info.id), mapping=fields)  # type: ignore[arg-type]
    pipe.expire(keys.worker(info.id), lifetime_s(info))
    pipe.sadd(keys.WORKERS, info.id)
    pipe.hset(keys.MODELS, info.model, info.id)


def lifetime_s(info: WorkerInfo) -> int:
    """Seconds that a heartbeat lasts."""
    return _TTL_S.get(info.state, keys.WORKER_TTL_S)


def _plain(value: object) -> object:
    return int(value) if isinstance(value, bool) else value


def withdraw(client: redis.Redis, worker_id: str) -> None:
    """Take a worker that ends in order out of the registry at once."""
    pipe = client.pipeline()
    pipe.delete(keys.worker(worker_id))
    pipe.srem(keys.WORKERS, worker_id)
    pipe.execute()


def workers(client: redis.Redis) -> list[WorkerInfo]:
    """All live workers, by model and id."""
    return [info for info in _all(client) if info.state not in _DOWN]


def down(client: redis.Redis) -> list[WorkerInfo]:
    """Workers that wait for what computes for them, or failed within the last minute, with why."""
    return [info for info in _all(client) if info.state in _DOWN]


def _all(client: redis.Redis) -> list[WorkerInfo]:
    read = records.read_all(client, keys.WORKERS, keys.worker, WorkerInfo.model_validate)
    return sorted(read, key=lambda info: (info.model, info.id))


def vanished(client: redis.Redis) -> list[WorkerInfo]:
    """Workers that died a moment ago: their connection has ended and a heartbeat is overdue.

    One that is stopped, or cut off from Redis, still seems connected; its record expires.
    """
    working = [info for info in _all(client) if info.state not in _TTL_S]
    pipe = client.pipeline(transaction=False)
    for info in working:
        pipe.pttl(keys.worker(info.id))
    pipe.pubsub_numsub(*(keys.worker_here(info.id) for info in working))
    *left_ms, readers = pipe.execute()
    return [
        info
        for info, left, (_, count) in zip(working, left_ms, readers, strict=True)
        if not count and left < (keys.WORKER_TTL_S - _OVERDUE_S) * 1000
    ]


def models(client: redis.Redis) -> list[ModelInfo]:
    """Models of live workers, by name, with the sums over their workers and their queue's length.

    A model whose workers are all still loading is listed with `ready` 0.
    """
    by_model: dict[str, list[WorkerInfo]] = defaultdict(list)
    for info in workers(client):
        by_model[info.model].append(info)
    pipe = client.pipeline(transaction=False)
    for name in by_model:
        pipe.llen(queue_key(name))
    lengths = pipe.execute()
    return [
        _summary(name, group, length)
        for (name, group), length in zip(by_model.items(), lengths, strict=True)
    ]


def _summary(name: str, group: list[WorkerInfo], queue_length: int) -> ModelInfo:
    ready = [info for info in group if info.state == "ready"]
    return ModelInfo(
        name=name,
        workers=len(group),
        ready=len(ready),
        slots=sum(info.slots for info in ready),
        running=sum(info.running for info in group),
        queue_length=queue_length,
        context_length=_least(info.context_length for info in ready),
        images=any(info.images for info in ready),
        speed=sum(info.speed for info in group),
        peak_speed=sum(info.peak_speed for info in ready),
        started_s=min(info.started_s for info in group),
        jobs_per_s=_jobs_per_s(ready),
    )


def _jobs_per_s(ready: list[WorkerInfo]) -> float:
    """Slots by the time that a job holds one; workers not yet measured count as the others do."""
    measured = [info for info in ready if info.job_s]
    known = sum(info.slots for info in measured)
    if not known:
        return 0.0
    slots = sum(info.slots for info in ready)
    return sum(info.slots / info.job_s for info in measured) * slots / known


def _least(lengths: Iterable[int]) -> int:
    """The least context length that is known, 0 if none is."""
    return min((length for length in lengths if length), default=0)


def pool(name: str, members: list[ModelInfo]) -> ModelInfo:
    """Describe models of one group as if they were one, with the sums over them."""
    ready = [info for info in members if info.ready]
    return ModelInfo(
        name=name,
        workers=sum(info.workers for info in members),
        ready=sum(info.ready for info in members),
        slots=sum(info.slots for info in members),
        running=sum(info.running for info in members),
        queue_length=sum(info.queue_length for info in members),
        context_length=_least(info.context_length for info in ready),
        images=any(info.images for info in ready),
        speed=sum(info.speed for info in members),
        peak_speed=sum(info.peak_speed for info in members),
        started_s=min((info.started_s for info in members), default=0.0),
        jobs_per_s=sum(info.jobs_per_s for info in members),
    )


def absent(name: str) -> ModelInfo:
    """Describe a model that nobody serves at the moment."""
    return pool(name, [])


def find_model(client: redis.Redis, name: str) -> ModelInfo:
    """The live model of that name.

    Raises:
        NoLiveWorker: it was served here once, but no worker is alive now.
        ModelNotFound: nobody ever served it here.
    """
    live = models(client)
    for model in live:
        if model.name == name:
            return model
    served = ", ".join(model.name for model in live) or "none at the moment"
    if client.hexists(keys.MODELS, name):
        raise NoLiveWorker(
            f"No worker for model {name!r} is alive. Start one, or use another model: {served}.",
            param="model",
        )
    raise ModelNotFound(f"Model {name!r} is not served here. Served: {served}.", param="model")
