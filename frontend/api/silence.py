"""What comments of a silent stream say, and when.

Where a job stands in its queue is told as soon as it has changed, else now and then that the stream
lives. Knows neither bytes nor events.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from frontend.line import Place

COMMENT_S: Final = 5.0
"""Longest silence on a stream; then a comment says that it lives."""

NEWS_S: Final = 1.0
"""Shortest time between two comments."""


class Silence:
    """The silence of one stream."""

    def __init__(self, find: Callable[[], Place | None]) -> None:
        """Use `find` to tell where the job stands; None if it is not waiting."""
        self._find = find
        self._told: int | None = None
        self.reset()

    def reset(self) -> None:
        """Note that something was said."""
        self._said_s = self._looked_s = time.monotonic()

    def look(self) -> Place | None:
        """Find out where the job stands."""
        self._looked_s = time.monotonic()
        return self._find()

    def begin(self) -> str:
        """Break the silence in any case."""
        return self._tell(self.look())

    def news(self) -> str:
        """Return what is to be said by now; empty if nothing is."""
        if time.monotonic() - self._looked_s < NEWS_S:
            return ""
        place = self.look()
        has_moved = place is not None and place.ahead != self._told
        return self._tell(place) if has_moved or self._looked_s - self._said_s >= COMMENT_S else ""

    def _tell(self, place: Place | None) -> str:
        self._said_s = self._looked_s
        self._told = None if place is None else place.ahead
        if place is None:
            return "waiting"
        about = "" if place.eta_s is None else f", about {math.ceil(place.eta_s)} s"
        return f"queue position {place.ahead}{about}"
