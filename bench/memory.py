"""The memory of processes over time, and whether it grows.

A process is told apart by its pid: one that is started again begins a new life. What it takes in
its first two minutes is its warm-up. The trend of a role is one slope fitted to all lives of its
processes together, each with a level of its own, so that neither a restart nor the difference
between two processes counts as growth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

PERIOD_S = 1.0
WARM_UP_S = 120.0
LEAST_S = 60.0
"""A life is fitted when it has so much after its warm-up."""

Pids = Callable[[], Iterable[tuple[str, int]]]
"""Tells the processes of the moment: role and pid."""


@dataclass
class Life:
    """One process: its resident memory over time, in MB and in seconds of the run."""

    role: str
    pid: int
    times_s: list[float] = field(default_factory=list)
    sizes_mb: list[float] = field(default_factory=list)

    def steady(self) -> list[tuple[float, float]]:
        """Return what came after the warm-up; nothing if that is too short to fit."""
        points = [
            (at, size)
            for at, size in zip(self.times_s, self.sizes_mb, strict=True)
            if at - self.times_s[0] >= WARM_UP_S
        ]
        return points if points and points[-1][0] - points[0][0] >= LEAST_S else []


@dataclass(frozen=True)
class Trend:
    """What the lives of one role show; `mb_per_min` is None where none was long enough."""

    role: str
    lives: int
    peak_mb: float
    mb_per_min: float | None
    fitted_min: float


def trend(role: str, lives: Iterable[Life]) -> Trend:
    """Fit one slope to all lives of a role."""
    own = [life for life in lives if life.role == role]
    over = under = fitted_s = 0.0
    for points in filter(None, (life.steady() for life in own)):
        mean_s = sum(at for at, _ in points) / len(points)
        mean_mb = sum(size for _, size in points) / len(points)
        over += sum((at - mean_s) * (size - mean_mb) for at, size in points)
        under += sum((at - mean_s) ** 2 for at, _ in points)
        fitted_s += points[-1][0] - points[0][0]
    peak_mb = max((max(life.sizes_mb) for life in own), default=0.0)
    return Trend(role, len(own), peak_mb, 60 * over / under if under else None, fitted_s / 60)


class Sampler:
    """Reads the memory of all processes once a second, on a thread of its own."""

    def __init__(self, pids: Pids) -> None:
        """Begin."""
        self.began_s = time.monotonic()
        self._pids = pids
        self._lives: dict[int, Life] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def lives(self) -> list[Life]:
        """All processes so far, in the order in which they began."""
        return list(self._lives.values())

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(PERIOD_S):
            for role, pid in self._pids():
                with suppress(psutil.Error):
                    self._note(role, pid, psutil.Process(pid).memory_info().rss)

    def _note(self, role: str, pid: int, size_bytes: int) -> None:
        life = self._lives.setdefault(pid, Life(role, pid))
        life.times_s.append(round(time.monotonic() - self.began_s, 1))
        life.sizes_mb.append(round(size_bytes / 2**20, 2))
