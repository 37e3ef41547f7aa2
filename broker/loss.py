"""A running job whose log Redis lost the end of: told again by the worker that runs it, or lost.

A Redis that was killed may have forgotten its last second, a replica that took over what had not
reached it yet, an emptied one everything. The worker still has the events that it wrote: the same
events under the same ids make the log whole again, and readers that saw them before skip them.
Knows nothing of how the worker is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

import redis

from broker import channel, keys
from broker.attempts import ALLOW_OOM
from broker.events import Event, EventId
from broker.leases import Lease, leases_key
from broker.queues import queue_key


class Fate(Enum):
    """What has become of the job."""

    RESTORED = auto()
    """Its log is whole, and it is still this worker's."""
    FENCED = auto()
    """Another attempt has taken it over."""
    GONE = auto()
    """Redis does not know it any more."""
    TORN = auto()
    """Its log lacks more than the worker has: it cannot be answered in full."""


# A claim that was forgotten left the job in its queue: take it out again, if nobody else did.
_LOOK = f"""{ALLOW_OOM}
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local found = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local last = found and found[1] or '0-0'
local attempt = tonumber(string.match(last, '%d+'))
if attempt <= tonumber(ARGV[1]) then
  if tonumber(redis.call('HGET', KEYS[1], 'attempt') or 0) < tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[1], 'attempt', ARGV[1])
  end
  redis.call('HSET', KEYS[1], 'state', 'running', 'worker', ARGV[2])
  redis.call('LREM', KEYS[3], 0, ARGV[3])
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[4], time[1] + tonumber(ARGV[5]), ARGV[4])
end
return {{last, redis.call('XLEN', KEYS[2])}}
"""


def restore(
    client: redis.Redis,
    lease: Lease,
    model: str,
    worker: str,
    events: Sequence[Event],
    logged: int,
    *,
    ttl_s: int,
) -> Fate:
    """Write again what a job's log lacks of one attempt, and make the job its worker's again.

    Args:
        client: any client; it may retry.
        lease: the worker's, of the job.
        model: whose job it is.
        worker: whose attempt it is.
        events: the attempt's last events, in order, the newest included; not empty.
        logged: how many entries the log had before the attempt.
        ttl_s: how long the lease lasts from now on.

    Raises:
        RedisError: Redis did not answer; all may be repeated.
    """
    job_id, newest = lease.job_id, events[-1].id
    found: Any = client.eval(
        _LOOK,
        4,
        keys.job(job_id),
        keys.events(job_id),
        queue_key(model),
        leases_key(model),
        str(newest.attempt),
        worker,
        job_id,
        lease.member,
        str(ttl_s),
    )
    if found is None:
        return Fate.GONE
    last, length = EventId.parse(found[0].decode()), int(found[1])
    if last.attempt > newest.attempt:
        return Fate.FENCED
    missing = [event for event in events if event.id > last]
    if length + len(missing) != logged + newest.n + 1:
        return Fate.TORN
    appended = channel.append(client, [(job_id, event) for event in missing], {job_id: logged})
    return Fate.FENCED if appended.fenced else Fate.RESTORED
