"""Ends jobs that no worker has started in time.

Anybody may call it at any time: it decides by Redis's clock, in one step for each job. Workers do
each second, and API processes when no worker is left to do it. A job that was popped a moment ago
is left to the worker that claims it, who may not start it either.
"""

from __future__ import annotations

import json
from typing import Any

import redis
from rq.job import Job

from broker import channel, estimates, keys, registry
from broker.attempts import ALLOW_OOM
from broker.cancellation import END_WAITING
from broker.channel import Claimed
from broker.errors import ErrorBody, QueueTimeout
from broker.events import EventId, Failed, encode_event
from broker.messages import ModelInfo
from broker.queues import queue_key

_FIND = """
local time = redis.call('TIME')
local now = string.format('%.3f', time[1] + time[2] / 1000000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)
"""

# Returns whether the job ended here. It has no `start_by` any more if it was started or is gone.
_END = f"""{ALLOW_OOM}{END_WAITING}
local state = redis.call('HGET', KEYS[1], 'state')
if redis.call('HEXISTS', KEYS[1], 'start_by') == 0 or state == 'failed' or state == 'cancelled' then
  redis.call('ZREM', KEYS[6], ARGV[1])
  return 0
end
local job, log, live, record, queue, server = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[7]
if not end_waiting(queue, job, log, live, record, server, ARGV[1], ARGV[2], 'failed', ARGV[3]) then
  return 0
end
redis.call('ZREM', KEYS[6], ARGV[1])
return 1
"""


def end(client: redis.Redis) -> list[str]:
    """End the waiting jobs whose time to be started is over, and return their ids."""
    found: Any = client.eval(_FIND, 1, keys.START_BY)
    if not found:
        return []
    live = {info.name: info for info in registry.models(client)}
    return [job_id for job_id in (raw.decode() for raw in found) if _end(client, job_id, live)]


def _end(client: redis.Redis, job_id: str, live: dict[str, ModelInfo]) -> bool:
    record: Any = client.hmget(keys.job(job_id), "model", "start_within")
    model, within_s = (record[0] or b"").decode(), float(record[1] or 0)
    failed = Failed(EventId(0, 0), _error(job_id, within_s, live.get(model)))
    ended = client.eval(
        _END,
        7,
        keys.job(job_id),
        keys.events(job_id),
        keys.live(job_id),
        Job.key_for(job_id),
        queue_key(model),
        keys.START_BY,
        keys.SERVER,
        job_id,
        json.dumps(encode_event(failed)),
        str(keys.ENDED_EVENTS_TTL_S),
    )
    return bool(ended)


def refuse(client: redis.Redis, claimed: Claimed) -> None:
    """End a job that was claimed too late."""
    live = {info.name: info for info in registry.models(client)}
    request = claimed.request
    error = _error(request.id, claimed.missed_s, live.get(request.model))
    channel.append(client, [(request.id, Failed(EventId(claimed.attempt, 1), error))])


def _error(job_id: str, within_s: float, info: ModelInfo | None) -> ErrorBody:
    """Tell to come back when those who wait now have been served, as far as that is known."""
    waiting, jobs_per_s = (info.queue_length, info.jobs_per_s) if info else (0, 0.0)
    return QueueTimeout(
        f"No worker took job {job_id} within {within_s:g} s, so it was given up. "
        "Try again later, or allow more time with queue_timeout.",
        retry_after_s=estimates.retry_after_s(waiting + 1, jobs_per_s),
    ).body
