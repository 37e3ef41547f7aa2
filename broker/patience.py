"""How long a job may wait, as it is written down when the job is submitted.

`start_by` in the job's record is the moment, by Redis's clock, until which a worker may claim it
for the first time; `helio:start-by` has the same for whoever looks for jobs that are overdue. The
claim in time takes both away (`channel`); the rest is ended by `overdue`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.client import Pipeline

from broker import keys

MAX_PATIENCE_S: Final = keys.JOB_TTL_S
"""A job's record is not kept any longer."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a job may wait in all for its start, and while no worker of its model is alive.

    The first is without limit if it is 0; the second is what counts as a while anyway, at least.
    """

    start_within_s: float = 0.0
    without_worker_s: float = 0.0


ENDLESS: Final = Patience()

_WRITE = """
local time = redis.call('TIME')
local by = string.format('%.3f', time[1] + time[2] / 1000000 + ARGV[2])
redis.call('HSET', KEYS[1], 'start_by', by, 'start_within', ARGV[2])
redis.call('ZADD', KEYS[2], by, ARGV[1])
"""


def write(pipe: Pipeline, job_id: str, patience: Patience) -> None:
    """Queue on `pipe`, after the job's record, how long the job may wait."""
    if patience.start_within_s:
        seconds = f"{patience.start_within_s:.3f}"
        pipe.eval(_WRITE, 2, keys.job(job_id), keys.START_BY, job_id, seconds)
    if patience.without_worker_s:
        pipe.hset(keys.job(job_id), "wait_for_worker", str(patience.without_worker_s))


def without_worker_s(client: redis.Redis, job_id: str) -> float:
    """Read how long a job was asked to wait while no worker of its model is alive."""
    seconds: Any = client.hget(keys.job(job_id), "wait_for_worker")
    return float(seconds or 0)
