"""A job while this process works on it: RQ's records, the claim, and what was published so far.

Also what runs jobs looks like to `workers.worker`: `Runner`, be it an engine's loop or a relay.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from rq.executions import Execution
from rq.job import Job

from broker.errors import AnswerDiffers
from broker.events import Entry, Event, EventId, Timings
from broker.leases import SUSPECT, Lease
from broker.messages import GenerateRequest
from broker.queues import MAX_FAILURES

if TYPE_CHECKING:
    from workers.scheduler import Output

KEPT_EVENTS: Final = 1000
"""Last events of a job that are kept in case Redis loses them: 17 s of an answer at least."""


@dataclass(eq=False, slots=True)
class RunningJob:
    """One claimed job; `next_id` numbers its events, `attempt` fences every earlier owner.

    `told` is the text that earlier attempts told, `resume_ids` the tokens behind all of it; there
    are none if one of them was an upstream, which does not tell tokens. `logged` is how many
    entries its log had before the claim, `messages` are the last of this attempt, claim included,
    as they are written: bytes, which Python's collector does not look through. With a thousand
    long answers it stopped all of them for 0.3 s when these were objects.
    `waited_s` is the time from submission to claim by Redis's clock; what comes after is measured
    here, without any clock that somebody may set: `began_s` and `first_token_s` are moments of
    `time.monotonic`.
    """

    job: Job
    execution: Execution
    request: GenerateRequest
    attempt: int
    resume_ids: tuple[int, ...] = ()
    told: str = ""
    cancelled: bool = False
    failures: int = 0
    logged: int = 0
    waited_s: float = 0.0
    answer: list[str] = field(default_factory=list)
    began_s: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    messages: deque[bytes] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    _n: int = 0

    def __post_init__(self) -> None:
        self.answer.append(self.told)

    @property
    def id(self) -> str:
        """The job's id, the same everywhere."""
        return self.request.id

    @property
    def may_be_given_back(self) -> bool:
        """Whether it may be tried again after the upstreams of this worker failed."""
        return self.failures < MAX_FAILURES

    @property
    def is_suspect(self) -> bool:
        """Whether its workers died again and again, though perhaps by what ran beside it."""
        return SUSPECT in self.job.meta

    @property
    def lease(self) -> Lease:
        """What says that this process runs it."""
        return Lease(self.id, self.execution.id, 0.0)

    def next_id(self) -> EventId:
        """Id of the next event to append."""
        self._n += 1
        return EventId(self.attempt, self._n)

    def write(self, event: Event) -> Entry:
        """Write this attempt's next event, and keep it in case Redis loses it."""
        entry = Entry.of(event)
        self.messages.append(entry.message)
        return entry

    def timings(self) -> Timings:
        """Seconds since submission, up to now."""
        now_s = time.monotonic()
        submitted_s = self.began_s - self.waited_s
        first_s = self.first_token_s or now_s
        return Timings(self.waited_s, first_s - submitted_s, now_s - submitted_s)


class Retold:
    """Text that was told before: an answer that begins anew is silent until it goes beyond it."""

    def __init__(self, told: str) -> None:
        self._left = told

    def push(self, text: str) -> str:
        """Take the next text of the answer; return what of it is new.

        Raises:
            AnswerDiffers: it differs from what was told.
        """
        size = min(len(text), len(self._left))
        if text[:size] != self._left[:size]:
            raise AnswerDiffers
        self._left = self._left[size:]
        return text[size:]

    def end(self) -> None:
        """Take note that the answer has ended.

        Raises:
            AnswerDiffers: it is shorter than what was told.
        """
        if self._left:
            raise AnswerDiffers


Publish = Callable[[list[tuple[RunningJob, "Output"]]], None]
FetchImages = Callable[[RunningJob], Mapping[str, bytes]]


class Runner(Protocol):
    """Runs jobs to their end; `run` on one thread, all else may be called from others."""

    @property
    def slots(self) -> int:
        """Jobs that may run at once."""
        ...

    @property
    def trouble(self) -> str:
        """Why no job can run now; empty when one can."""
        ...

    @property
    def pass_s(self) -> float:
        """Seconds that `run` has been at one thing without coming back; 0 while it waits."""
        ...

    def add(self, job: RunningJob) -> None:
        """Run a job."""
        ...

    def cancel(self, job: RunningJob) -> None:
        """End a job soon; it ends with finish reason "cancelled"."""
        ...

    def drop(self, job: RunningJob) -> None:
        """Forget a job that somebody else has taken over; nothing more is published for it."""
        ...

    def stop(self) -> None:
        """Let `run` return soon; running jobs are left as they are."""
        ...

    def run(self) -> None:
        """Work until `stop`."""
        ...
