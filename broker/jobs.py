"""A job as those who ask for it see it: its state, who runs it, and where its log ends.

Reads only. How a job gets on its queue and off it is `queues`' to know, who follows it `readers`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import redis

from broker import keys, queues
from broker.channel import read_log
from broker.errors import AnswerExpired, InvalidRequest, JobNotFound
from broker.events import START, Event, EventId, is_terminal
from broker.messages import GenerateRequest

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: frozenset[JobState] = frozenset(("done", "failed", "cancelled"))

_FIELDS = ("request", "state", "worker", "attempt", "on_disconnect")


@dataclass(frozen=True, slots=True)
class Job:
    """A job's record; `position` is the number of jobs before it while it waits in its queue.

    `attempt` grows with each worker that took it, see `attempts`. `on_disconnect` is empty if it
    was not submitted over HTTP, see `readers`.
    """

    request: GenerateRequest
    state: JobState
    worker: str
    attempt: int
    position: int | None
    on_disconnect: str

    @property
    def id(self) -> str:
        """The job's id."""
        return self.request.id


def read(client: redis.Redis, job_id: str) -> Job:
    """Read a job's record.

    Raises:
        JobNotFound: it is unknown, has expired, or was written by another version.
    """
    raw: Any = client.hmget(keys.job(job_id), _FIELDS)
    record, state, worker, attempt, rule = (value.decode() if value else "" for value in raw)
    try:
        request = GenerateRequest.model_validate_json(record)
        if state not in get_args(JobState):
            raise ValueError(state)
    except ValueError:
        raise JobNotFound(
            f"Job {job_id[:80]} is unknown here, or its record has expired."
        ) from None
    position = None if state in ENDED else queues.position(client, request.model, job_id)
    if position is not None:  # also after a worker died: then it waits for the next one
        state = "queued"
    return Job(request, state, worker, int(attempt or 0), position, rule)  # type: ignore[arg-type]


def ending(client: redis.Redis, job: Job, after: EventId) -> Event | None:
    """Return the job's terminal event if nothing comes after `after`, None if something does.

    Raises:
        AnswerExpired: the job has ended, and its log is gone.
        InvalidRequest: the job has not come to `after` yet.
    """
    if job.state in ENDED:
        if any(map(is_terminal, read_log(client, job.id, after))):
            return None
        for event in read_log(client, job.id):
            if is_terminal(event):
                return event
        raise AnswerExpired(
            f"Job {job.id} has ended, and its answer is not kept any more: that is done for "
            f"{keys.ENDED_EVENTS_TTL_S // 60} minutes. Send the request again."
        )
    last: Any = client.xrevrange(keys.events(job.id), count=1)
    if after > (EventId.parse(last[0][0].decode()) if last else START):
        raise InvalidRequest(
            f"Job {job.id} has not come to event {after} yet. Send the id of the last event that "
            "came, or none for all.",
            param="after",
        )
    return None
