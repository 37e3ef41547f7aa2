"""A job while this process works on it: RQ's records, the claim, and what was published so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rq.executions import Execution
from rq.job import Job

from broker.events import EventId, Timings
from broker.messages import GenerateRequest


@dataclass(eq=False, slots=True)
class RunningJob:
    """One claimed job; `next_id` numbers its events, `attempt` fences every earlier owner."""

    job: Job
    execution: Execution
    request: GenerateRequest
    attempt: int
    resume_ids: tuple[int, ...] = ()
    answer: list[str] = field(default_factory=list)
    cancelled: bool = False
    claimed_s: float = field(default_factory=time.time)
    first_token_s: float | None = None
    _n: int = 0

    @property
    def id(self) -> str:
        """The job's id, the same everywhere."""
        return self.request.id

    def next_id(self) -> EventId:
        """Id of the next event to append."""
        self._n += 1
        return EventId(self.attempt, self._n)

    def timings(self) -> Timings:
        """Seconds since submission; negative differences of two machines' clocks count as 0."""
        now, created = time.time(), self.request.created_s
        first = self.first_token_s or now
        return Timings(*(max(0.0, t - created) for t in (self.claimed_s, first, now)))
