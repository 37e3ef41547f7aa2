"""Foreign workers: HTTP workers of LLaVA, InternVL and FastChat, and cells, that registered here.

A record with a lifetime that the worker's heartbeats renew; one registered without heartbeats stays
until it is withdrawn. The door writes what a worker says of itself, the bridge reads it and calls
the worker (see `workers.bridge`). Nothing here calls anybody.
"""

from __future__ import annotations

import json
from typing import Any

import redis
from pydantic import BaseModel, ConfigDict, Field

from broker import keys, records

HEARTBEAT_TTL_S = 35
"""LLaVA's and InternVL's workers say that they live every 15 s: two heartbeats may be missed."""

FASTCHAT_TTL_S = 100
"""FastChat's say it every 45 s."""


class ForeignWorker(BaseModel):
    """What a foreign worker said when it registered, or when it was asked.

    `models` is empty as long as nobody has asked a worker that did not say. `fastchat` is what the
    form of its registration tells, or with older versions its answers.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    address: str = Field(description="its URL, which is its name as well")
    models: tuple[str, ...] = ()
    queue_length: int = 0
    heartbeats: bool = True
    fastchat: bool = False
    registered_s: float = 0.0


def register(client: redis.Redis, worker: ForeignWorker) -> None:
    """Write a worker's record, over an earlier one of the same address."""
    key = keys.foreign_worker(worker.address)
    record = {
        "address": worker.address,
        "models": json.dumps(worker.models),
        "queue_length": worker.queue_length,
        "heartbeats": int(worker.heartbeats),
        "fastchat": int(worker.fastchat),
        "registered_s": worker.registered_s,
    }
    pipe = client.pipeline()
    pipe.hset(key, mapping=record)  # type: ignore[arg-type]
    if worker.heartbeats:
        pipe.expire(key, ttl_s(worker))
    else:
        pipe.persist(key)
    pipe.sadd(keys.FOREIGN_WORKERS, worker.address)
    pipe.execute()


def ttl_s(worker: ForeignWorker) -> int:
    """Seconds that a record lasts without a heartbeat."""
    return FASTCHAT_TTL_S if worker.fastchat else HEARTBEAT_TTL_S


# In one step, so that a heartbeat never brings half a record back to life.
_BEAT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'queue_length', ARGV[1])
if redis.call('TTL', KEYS[1]) >= 0 then
  local fastchat = redis.call('HGET', KEYS[1], 'fastchat') == '1'
  redis.call('EXPIRE', KEYS[1], fastchat and ARGV[3] or ARGV[2])
end
return 1
"""


def beat(client: redis.Redis, address: str, queue_length: int) -> bool:
    """Renew a record; False when there is none, and the worker has to register again."""
    key = keys.foreign_worker(address)
    ttls = (str(HEARTBEAT_TTL_S), str(FASTCHAT_TTL_S))
    return bool(client.eval(_BEAT, 1, key, str(queue_length), *ttls))


# In one step, for the same reason.
_TELL = """
if redis.call('EXISTS', KEYS[1]) == 0 then return end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] and redis.call('TTL', KEYS[1]) >= 0 then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
"""


def tell_models(client: redis.Redis, address: str, models: tuple[str, ...]) -> None:
    """Write down the models that a worker answered with when it was asked, if it is still here."""
    client.eval(_TELL, 1, keys.foreign_worker(address), "models", json.dumps(models))


def tell_fastchat(client: redis.Redis, address: str) -> None:
    """Write down that a worker turned out to be FastChat's, whose heartbeats are further apart."""
    client.eval(_TELL, 1, keys.foreign_worker(address), "fastchat", "1", str(FASTCHAT_TTL_S))


def withdraw(client: redis.Redis, address: str) -> bool:
    """Forget a worker; False when it was not known."""
    pipe = client.pipeline()
    pipe.delete(keys.foreign_worker(address))
    pipe.srem(keys.FOREIGN_WORKERS, address)
    return bool(pipe.execute()[0])


def workers(client: redis.Redis) -> list[ForeignWorker]:
    """All live foreign workers, by address; records that cannot be read are passed over."""
    return records.read_all(client, keys.FOREIGN_WORKERS, keys.foreign_worker, _parse)


def _parse(fields: dict[str, Any]) -> ForeignWorker:
    return ForeignWorker.model_validate({**fields, "models": json.loads(fields["models"])})
