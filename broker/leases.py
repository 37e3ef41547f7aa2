"""Leases of running jobs in RQ's records, and the one step that gives a job back to its queue.

A lease is the entry `<job>:<execution>` of `rq:wip:{model}`, with the time at which it runs out.
Whoever takes it away decides what becomes of the job, so a job is never queued twice and never in
no list. Knows neither why a job is given back nor who runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import redis
from redis.client import Pipeline
from rq.executions import ExecutionRegistry
from rq.job import Job

from broker import keys
from broker.attempts import ALLOW_OOM
from broker.queues import queue_key

SUSPECT: Final = "suspect"
"""In the meta of a job's RQ record: a worker runs at most one such job at a time."""


class Lease(NamedTuple):
    """A job that somebody runs, and until when by Redis's clock."""

    job_id: str
    execution_id: str
    expires_s: float

    @property
    def member(self) -> str:
        """The lease's name in `rq:wip:{model}`."""
        return f"{self.job_id}:{self.execution_id}"


def leases_key(model: str) -> str:
    """Redis sorted set of the model's leases, by the time at which they run out."""
    return f"rq:wip:{model}"


def read(client: redis.Redis, model: str) -> list[Lease]:
    """Read a model's leases, the oldest first."""
    entries: Any = client.zrange(leases_key(model), 0, -1, withscores=True)
    names = ((raw.decode().rpartition(":"), score) for raw, score in entries)
    return [Lease(job_id, execution_id, score) for (job_id, _, execution_id), score in names]


# What RQ does for each execution in four commands; a lease that was taken away does not come back.
_RENEW = f"""{ALLOW_OOM}
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for place = 1, #KEYS / 2 do
  local execution, executions = KEYS[2 * place], KEYS[2 * place + 1]
  local member, id = ARGV[2 * place], ARGV[2 * place + 1]
  if redis.call('ZSCORE', KEYS[1], member) then
    redis.call('ZADD', KEYS[1], string.format('%.3f', now + ARGV[1]), member)
    redis.call('HSET', execution, 'last_heartbeat', string.format('%.3f', now))
    redis.call('EXPIRE', execution, ARGV[1])
    redis.call('ZADD', executions, string.format('%.3f', now + ARGV[1] + 60), id)
    redis.call('EXPIRE', executions, ARGV[1] + 60)
  end
end
"""


def renew(pipe: Pipeline, model: str, held: Sequence[Lease], ttl_s: int) -> None:
    """Queue on `pipe` that leases last `ttl_s` seconds from now on, as far as they are still there.

    One command for all: a worker may hold a thousand.
    """
    names, values = [leases_key(model)], [str(ttl_s)]
    for lease in held:
        _, executions, execution, _ = _keys_of(model, lease)
        names += (execution, executions)
        values += (lease.member, lease.execution_id)
    pipe.eval(_RENEW, len(names), *names, *values)


# Only who removes the lease may queue the job, and only if no later attempt has it.
_GIVE_BACK = f"""{ALLOW_OOM}
redis.call('DEL', KEYS[3])
redis.call('ZREM', KEYS[2], ARGV[2])
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 or redis.call('EXISTS', KEYS[4]) == 0 then return 0 end
if ARGV[4] ~= '' and redis.call('HGET', KEYS[6], 'attempt') ~= ARGV[4] then return 0 end
if ARGV[5] ~= '' and redis.call('EXISTS', KEYS[6]) == 1 then
  redis.call('HINCRBY', KEYS[6], 'deaths', 1)
end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[4], 'meta', ARGV[6]) end
redis.call('HSET', KEYS[4], 'status', 'queued')
if redis.call('HGET', KEYS[6], 'state') == 'running' then
  redis.call('HSET', KEYS[6], 'state', 'queued')
end
if not redis.call('LPOS', KEYS[5], ARGV[3]) then redis.call('LPUSH', KEYS[5], ARGV[3]) end
return 1
"""


def give_back(
    pipe: Pipeline,
    model: str,
    lease: Lease,
    *,
    attempt: int | None = None,
    death: bool = False,
    suspect: bool = False,
) -> None:
    """Queue on `pipe` that a job goes to the front of its queue, if its lease is still there.

    Args:
        pipe: of any client; the step may be repeated.
        model: whose queue it is.
        lease: ends with this step.
        attempt: do nothing if the job has another one by now.
        death: count in the job's record that its worker died.
        suspect: from now on a worker runs the job beside no other suspect.
    """
    pipe.eval(
        _GIVE_BACK,
        6,
        *_keys_of(model, lease),
        queue_key(model),
        keys.job(lease.job_id),
        lease.member,
        lease.execution_id,
        lease.job_id,
        "" if attempt is None else str(attempt),
        "1" if death else "",
        f'{{"{SUSPECT}": true}}' if suspect else "",
    )


_LET_GO = f"""{ALLOW_OOM}
local expires = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not expires or expires == '1' then return end
redis.call('ZADD', KEYS[1], 1, ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HINCRBY', KEYS[2], 'failures', 1) end
"""


def let_go(client: redis.Redis, model: str, lease: Lease) -> None:
    """Let a lease run out now, and count in the job's record that an upstream failed."""
    client.eval(_LET_GO, 2, leases_key(model), keys.job(lease.job_id), lease.member)


def close(pipe: Pipeline, model: str, lease: Lease, *, job: bool = True) -> None:
    """Queue on `pipe` the end of a lease, and of RQ's record of its `job` as well."""
    leases, executions, execution, record = _keys_of(model, lease)
    pipe.zrem(leases, lease.member)
    pipe.delete(execution)
    if job:
        pipe.delete(executions, record)


def _keys_of(model: str, lease: Lease) -> tuple[str, str, str, str]:
    return (
        leases_key(model),
        ExecutionRegistry.key_template.format(lease.job_id),
        f"rq:execution:{lease.member}",
        Job.key_for(lease.job_id),
    )
