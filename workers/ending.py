"""What is left to do when a job has ended: RQ's records of it, the chat log, the counters.

The reader has the whole answer by then, so nothing here is tried twice: what RQ keeps of a job that
could not be closed goes with its lease.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import redis
from redis.exceptions import RedisError

from broker import feedback
from workers.intake import Intake
from workers.publisher import Ended

log = logging.getLogger(__name__)


def close(
    client: redis.Redis, intake: Intake, worker_id: str, worker_key: str, ended: Sequence[Ended]
) -> None:
    """Close RQ's records of jobs that have ended, and log the chats, in one round trip."""
    pipe = client.pipeline(transaction=False)
    for end in ended:
        intake.close(end.job.job, end.job.execution, pipe)
        feedback.log_chat(
            pipe,
            end.job.request,
            worker_id,
            "".join(end.job.answer),
            end.finish_reason or "error",
            end.usage,
            end.job.timings(),
            end.error,
        )
    pipe.hincrby(worker_key, "successful_job_count", len(ended))
    try:
        pipe.execute()
    except RedisError as error:
        name = type(error).__name__  # its text may quote an answer
        log.warning("closing and logging %d jobs failed: %s", len(ended), name)
