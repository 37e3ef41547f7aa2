"""An outage of Redis as one process sees it: one log line when it begins, one when it is over.

Several parts of a process need Redis, and each finds out by itself that it is away or refuses
writes. The first says so, and again only if the reason changes; the last one that gets through
again says that it is over. Knows nothing of what the parts do.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from redis.exceptions import OutOfMemoryError, ReadOnlyError

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 0.5
"""Pauses between tries double from the first to the longest; so Redis is found again in time."""


class Outage:
    """What of one process does not get through to Redis."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: set[str] = set()
        self._since_s = 0.0
        self._reason = ""

    def begin(self, part: str, error: Exception) -> None:
        """Note that a part of the process failed; the first and any new reason are logged."""
        reason = _reason(error)
        with self._lock:
            if not self._parts:
                self._since_s, self._reason = time.monotonic(), ""
            self._parts.add(part)
            if reason != self._reason:
                self._reason = reason
                log.warning("Redis %s; trying until it does again (%s: %s)", reason, part, error)

    def end(self, part: str) -> None:
        """Note that a part gets through; that the last one does is logged."""
        if part not in self._parts:
            return
        with self._lock:
            self._parts.discard(part)
            if not self._parts:
                log.info("Redis answers again after %.1f s", time.monotonic() - self._since_s)


def _reason(error: Exception) -> str:
    if isinstance(error, OutOfMemoryError):
        return "takes no writes since it is full: raise maxmemory or free memory"
    if isinstance(error, ReadOnlyError):
        return "takes no writes since it is a replica: make it the primary, or set REDIS_URL"
    return "does not answer"
