"""What is known of jobs that were submitted, and their cancellation."""

from __future__ import annotations

import redis

from broker import cancellation, jobs
from broker.connection import redis_errors
from broker.events import Event, EventId
from broker.jobs import Job


class Jobs:
    """All jobs of one Redis; every call may raise RedisUnavailable."""

    def __init__(self, client: redis.Redis) -> None:
        """Use a client that retries: what is done here may be repeated without harm."""
        self._client = client

    @redis_errors()
    def read(self, job_id: str) -> Job:
        """What is known of a job.

        Raises:
            JobNotFound: its record has expired or never existed.
        """
        return jobs.read(self._client, job_id)

    @redis_errors()
    def ending(self, job: Job, after: EventId) -> Event | None:
        """The job's terminal event if nothing comes after `after`; see `broker.jobs`."""
        return jobs.ending(self._client, job, after)

    @redis_errors()
    def cancel(self, job_id: str) -> bool:
        """Cancel a job; False when it is unknown. Cancelling an ended job changes nothing."""
        return cancellation.cancel(self._client, job_id)
