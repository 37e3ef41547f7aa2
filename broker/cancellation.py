"""Ends jobs at somebody's wish, and any job that still waits in its queue.

Who ends a job that waits writes its last event in the same step, as no worker ever will.
"""

from __future__ import annotations

import json
from typing import Final

import redis
from rq import Queue
from rq.job import Job

from broker import keys
from broker.attempts import ALLOW_OOM, NEXT_ATTEMPT
from broker.events import End, EventId, Timings, Usage, encode_event

END_WAITING: Final = f"""{NEXT_ATTEMPT}
local function end_waiting(queue, job, log, live, record, server, id, event, state, ttl)
  if redis.call('LREM', queue, 1, id) == 0 then return false end
  local entry = next_attempt(job, server) .. '-0'
  local fields = cjson.decode(event)
  local flat = {{}}
  for key, value in pairs(fields) do flat[#flat + 1] = key; flat[#flat + 1] = value end
  redis.call('XADD', log, entry, unpack(flat))
  redis.call('PUBLISH', live, cjson.encode({{entry, fields}}))
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
