"""How long a job holds its slot, measured on those that ended last.

Slots divided by this is the rate at which jobs end while others wait, whatever the engine is, and
it is known as well while none wait. How a job ended does not matter: its slot is free.
"""

from __future__ import annotations

from collections import deque
from typing import Final

JOBS: Final = 32
"""How many jobs are remembered: a few rounds of the usual number of slots."""


class Turnover:
    """The mean of the last jobs; written by one thread, read by any."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._held_s: deque[float] = deque(maxlen=JOBS)
        self.mean_s = 0.0
        """Seconds from claim to end; 0 before the first end."""

    def note(self, held_s: float) -> None:
        """Count a job that has ended after so many seconds; less than 0 is a clock that was set."""
        self._held_s.append(max(0.0, held_s))
        self.mean_s = sum(self._held_s) / len(self._held_s)
