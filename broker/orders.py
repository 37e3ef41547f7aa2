"""What operators order workers to do: drain one, pause a model's, let them go on.

An order stands in a key, where each worker looks with its pulse, and is said on `helio:control`, so
that it is obeyed at once. Knows nothing of how workers obey.
"""

from __future__ import annotations

import json
from typing import Any

import redis

from broker import keys

# A worker that is gone must not get a record that never expires.
_DRAIN = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'drain', '1')
redis.call('PUBLISH', KEYS[2], ARGV[1])
return 1
"""


def drain(client: redis.Redis, worker_id: str) -> bool:
    """Have a worker take no new jobs and end when its running ones have; whether it is known."""
    command = json.dumps({"drain": worker_id})
    return bool(client.eval(_DRAIN, 2, keys.worker(worker_id), keys.CONTROL, command))


def pause(client: redis.Redis, model: str) -> bool:
    """Have a model's workers take no new jobs, those that start later included.

    Returns:
        Whether the model was ever served here; one that was not is not paused.
    """
    if not client.hexists(keys.MODELS, model):
        return False
    client.sadd(keys.PAUSED, model)
    client.publish(keys.CONTROL, json.dumps({"pause": model}))
    return True


def resume(client: redis.Redis, model: str) -> bool:
    """Let a model's workers take jobs again; whether it was paused."""
    was_paused = bool(client.srem(keys.PAUSED, model))
    client.publish(keys.CONTROL, json.dumps({"resume": model}))
    return was_paused


def paused(client: redis.Redis) -> set[str]:
    """Models whose workers take no new jobs."""
    members: Any = client.smembers(keys.PAUSED)
    return {raw.decode(errors="replace") for raw in members}
