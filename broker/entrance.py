"""The bound of a queue, kept exactly, however many come at once.

Who comes is counted before its request is written, together with those who wait already; from the
transaction that enqueues it on it is one of them. Who dies in between is forgotten after a while.
"""

from __future__ import annotations

from typing import Any, Final

import redis
from redis.client import Pipeline

from broker import keys

COMING_S: Final = 5
"""Nobody takes that long to enqueue a request."""

_ENTER = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.3f', now))
local length = redis.call('LLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2])
if length < tonumber(ARGV[2]) then
  redis.call('ZADD', KEYS[2], string.format('%.3f', now + ARGV[3]), ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
return length
"""


def enter(client: redis.Redis, queue: str, model: str, job_id: str, most: int) -> int:
    """Count a request in, if fewer than `most` wait and come; return how many those are.

    Args:
        client: any; it may retry.
        queue: the Redis list of a model's waiting jobs.
        model: the model.
        job_id: the request's.
        most: the bound.
    """
    length: Any = client.eval(
        _ENTER, 2, queue, keys.coming(model), job_id, str(most), str(COMING_S)
    )
    return int(length)


def leave(client: redis.Redis | Pipeline, model: str, job_id: str) -> None:
    """Count a request no longer: it is enqueued in the transaction of this pipe, or will not be."""
    client.zrem(keys.coming(model), job_id)
