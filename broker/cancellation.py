"""Ends jobs at somebody's wish, and any job that still waits in its queue.

Who ends a job that waits writes its last event in the same step, as no worker ever will.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import redis
from redis.client import Pipeline
from rq import Queue
from rq.job import Job

from broker import keys
from broker.attempts import ALLOW_OOM, NEXT_ATTEMPT
from broker.events import End, EventId, Timings, Usage, encode_event

END_WAITING: Final = f"""{NEXT_ATTEMPT}
local function end_waiting(queue, job, log, live, record, server, id, event, state, ttl)
  if redis.call('LREM', queue, 1, id) == 0 then return false end
  local entry = next_attempt(job, server) .. '-0'
  local message = cjson.encode({{entry, cjson.decode(event)}})
  redis.call('XADD', log, entry, 'm', message)
  redis.call('PUBLISH', live, message)
  redis.call('HSET', job, 'state', state)
  redis.call('EXPIRE', log, redis.call('HGET', job, 'keep_s') or ttl)
  redis.call('DEL', record)
  return true
end
"""
"""Lua: end a job with its last event if it is still in its queue; else return false."""

# Either the job is still in the queue: it ends here; or a worker has it: the worker is told.
_CANCEL = f"""{ALLOW_OOM}{END_WAITING}
local model = redis.call('HGET', KEYS[1], 'model')
if not model then return 0 end
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'done' or state == 'failed' or state == 'cancelled' then return 1 end
redis.call('HSET', KEYS[1], 'cancel', '1')
local job, log, live, record, server = KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6]
local queue, id, event, ttl = ARGV[1] .. model, ARGV[2], ARGV[3], ARGV[4]
if not end_waiting(queue, job, log, live, record, server, id, event, 'cancelled', ttl) then
  redis.call('PUBLISH', KEYS[4], ARGV[5])
end
return 1
"""

_LOOK = """
local gone, cancelled = {}, {}
for place, job in ipairs(KEYS) do
  local model, cancel = unpack(redis.call('HMGET', job, 'model', 'cancel'))
  if not model then gone[#gone + 1] = place - 1
  elseif cancel == '1' then cancelled[#cancelled + 1] = place - 1 end
end
return {gone, cancelled}
"""


def look(pipe: Pipeline, job_ids: Sequence[str]) -> None:
    """Queue on `pipe` the question which jobs Redis has lost, and which are to be cancelled.

    The reply has their places, from 0, as two lists. One command for all: a worker may run a
    thousand jobs.
    """
    pipe.eval(_LOOK, len(job_ids), *map(keys.job, job_ids))


def cancel(client: redis.Redis, job_id: str) -> bool:
    """Cancel a job: a waiting one ends at once, a running one within one decode step.

    Returns:
        Whether the job is known. Cancelling an ended job changes nothing.
    """
    ended = End(EventId(0, 0), "", (), "cancelled", Usage(0, 0), Timings(0.0, 0.0, 0.0))
    known = client.eval(
        _CANCEL,
        6,
        keys.job(job_id),
        keys.events(job_id),
        keys.live(job_id),
        keys.CONTROL,
        Job.key_for(job_id),
        keys.SERVER,
        Queue.redis_queue_namespace_prefix,
        job_id,
        json.dumps(encode_event(ended)),
        str(keys.ENDED_EVENTS_TTL_S),
        json.dumps({"cancel": job_id}),
    )
    return bool(known)
