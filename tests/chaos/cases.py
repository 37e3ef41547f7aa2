"""What a fault did to the answers that were under way: counted from their events alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from broker.events import Claim, Delta, End, Event, EventId, Failed
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
    moved: int = 0
    duplicated: int = 0
    lost: int = 0
    recoveries_s: list[float] = field(default_factory=list)
    errors_s: list[float] = field(default_factory=list)

    @property
    def worst_s(self) -> float:
        """The longest silence of any answer after a fault."""
        return max(self.recoveries_s, default=0.0)

    def line(self) -> str:
        """The figures as one line."""
        parts = [f"{self.runs} runs", f"{self.exact} of {self.answers} texts exact"]
        if self.moved:
            parts.append(f"{self.moved} moved to another worker")
        if self.errors_s:
            parts.append(
                f"{len(self.errors_s)} clear errors, last after {max(self.errors_s):.1f} s"
            )
        parts += [f"{self.duplicated} duplicated", f"{self.lost} lost"]
        if self.recoveries_s:
            parts.append(f"recovery median {median(self.recoveries_s):.1f} s")
            parts.append(f"worst {self.worst_s:.1f} s")
        name = f"{self.name} ({self.how})" if self.how else self.name
        return f"{name}: {', '.join(parts)}"

    def note(self, told: Sequence[Told], expected: str, since_s: float | None) -> None:
        """Count the answers of one run; `since_s` is when the fault happened, None: all along."""
        self.runs += 1
        for each in told:
            self.count(each, expected)
        whole = [each for each in told if each.error_at_s is None]
        if whole:
            self.recoveries_s.append(max(each.silence_after(since_s) for each in whole))
        errors = (each.error_at_s for each in told)
        self.errors_s += [at_s - (since_s or at_s) for at_s in errors if at_s is not None]

    def count(self, told: Told, expected: str) -> None:
        """Count one answer of a run."""
        self.answers += 1
        self.exact += told.text == expected
        self.moved += len(told.workers) > 1
        self.duplicated += told.duplicated
        self.lost += told.lost

    @property
    def all_exact(self) -> bool:
        return (self.exact, self.duplicated, self.lost) == (self.answers, 0, 0)


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
    def error_at_s(self) -> float | None:
        """When it ended with an error that its reader can understand; None if it did not."""
        return None

    @property
    def ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1][1], End)

    @property
    def workers(self) -> list[str]:
        """Ids of the workers that claimed it, in order."""
        return [event.worker for _, event in self.events if isinstance(event, Claim)]

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

    @property
    def workers(self) -> list[str]:
        """Ids of the workers that have the answers."""
        return [each.workers[-1] for each in self.told]

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
