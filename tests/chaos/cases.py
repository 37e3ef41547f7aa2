"""What a fault did to the answers that were under way: counted from their events alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

from broker.events import Delta, End, Event, EventId, Failed
from broker.messages import GenerateRequest
from frontend.service import Service


@dataclass
class Case:
    """Figures of all runs of one fault."""

    name: str
    how: str = ""
    runs: int = 0
    answers: int = 0
    exact: int = 0
    duplicated: int = 0
    lost: int = 0
    worst_s: float = 0.0

    def line(self) -> str:
        """The figures as one line."""
        name = f"{self.name} ({self.how})" if self.how else self.name
        return (
            f"{name}: {self.runs} runs, {self.exact} of {self.answers} texts exact, "
            f"{self.duplicated} duplicated, {self.lost} lost, worst recovery {self.worst_s:.1f} s"
        )

    def note(self, told: Sequence[Told], expected: str, since_s: float | None) -> None:
        """Count the answers of one run; `since_s` is when the fault happened, None: all along."""
        self.runs += 1
        for each in told:
            self.answers += 1
            self.exact += each.text == expected
            self.duplicated += each.duplicated
            self.lost += each.lost
            self.worst_s = max(self.worst_s, each.silence_after(since_s))


@dataclass
class Told:
    """One answer as its reader got it, with the time of each event."""

    events: list[tuple[float, Event]] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def text(self) -> str:
        return "".join(e.text for _, e in self.events if isinstance(e, Delta | End))

    @property
    def ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1][1], End)

    @property
    def ids(self) -> list[EventId]:
        return [event.id for _, event in self.events]

    @property
    def duplicated(self) -> int:
        """Events that came again, or after a later one."""
        return sum(b <= a for a, b in pairwise(self.ids))

    @property
    def lost(self) -> int:
        """Events that are missing between two of the same attempt."""
        pairs = pairwise(self.ids)
        return sum(b.n - a.n - 1 for a, b in pairs if a.attempt == b.attempt and b.n > a.n)

    def silence_after(self, since_s: float | None) -> float:
        """Longest wait for an event from a moment on, by default from the first event."""
        times = [at for at, _ in self.events]
        if since_s is not None:
            times = [since_s, *(at for at in times if at > since_s)]
        return max((b - a for a, b in pairwise(times)), default=0.0)


class Followers:
    """Reads several answers at once and tells how far they are."""

    def __init__(self, answers: Sequence[Iterable[Event | None]]) -> None:
        self.told = [Told() for _ in answers]
        self._progress = threading.Condition()
        self._pool = ThreadPoolExecutor(len(answers))
        self._done = [
            self._pool.submit(self._read, answer, told)
            for answer, told in zip(answers, self.told, strict=True)
        ]

    def _read(self, answer: Iterable[Event | None], told: Told) -> None:
        for event in answer:
            if event is None:
                told.ticks.append(time.monotonic())
                continue
            assert not isinstance(event, Failed), event
            with self._progress:
                told.events.append((time.monotonic(), event))
                told.tokens += len(event.token_ids) if isinstance(event, Delta | End) else 0
                self._progress.notify_all()

    def until_tokens(self, count: int) -> None:
        """Wait until every answer has that many tokens, or has ended."""
        with self._progress:
            assert self._progress.wait_for(
                lambda: all(each.tokens >= count or each.ended for each in self.told), 60
            ), [each.tokens for each in self.told]

    def finish(self, timeout_s: float = 60.0) -> list[Told]:
        """Wait for the ends of all answers."""
        for each in self._done:
            each.result(timeout_s)
        self._pool.shutdown()
        return self.told


class Readers(Followers):
    """Reads answers from the token channel itself."""

    def __init__(self, service: Service, asked: Sequence[GenerateRequest]) -> None:
        super().__init__([service.follow(request) for request in asked])
