"""How long ago a job was submitted, by the clock that all machines share, which is Redis's.

The frontend that submits a job and the worker that takes it may be on machines whose clocks differ
by minutes. Knows nothing of what happens to a job in between.
"""

from __future__ import annotations

from typing import Final

from redis.client import Pipeline

from broker import keys

_NOW: Final = "local time = redis.call('TIME') local now = time[1] + time[2] / 1000000"

_STAMP: Final = f"""{_NOW}
redis.call('HSET', KEYS[1], 'submitted_s', string.format('%.6f', now))
"""

# A job that another version submitted has no stamp: it counts as submitted now.
_AGE: Final = f"""{_NOW}
return string.format('%.6f', now - (redis.call('HGET', KEYS[1], 'submitted_s') or now))
"""


def stamp(pipe: Pipeline, job_id: str) -> None:
    """Queue on `pipe` that a job is submitted at this moment."""
    pipe.eval(_STAMP, 1, keys.job(job_id))


def ask(pipe: Pipeline, job_id: str) -> None:
    """Queue on `pipe` the question how old a job is; read its reply with `read`."""
    pipe.eval(_AGE, 1, keys.job(job_id))


def read(reply: bytes) -> float:
    """Seconds since the submission; a clock that was set back counts as none."""
    return max(0.0, float(reply))
