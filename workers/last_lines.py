"""The last log lines of a worker, kept in Redis: evidence for whoever asks why it died.

Knows neither who writes them there nor when.
"""

from __future__ import annotations

import logging
from collections import deque

from redis.client import Pipeline

from broker import keys

LINES = 50


class LastLines(logging.Handler):
    """Keeps the last `LINES` lines, as they stand in the log, for `write`."""

    def __init__(self, worker_id: str) -> None:
        super().__init__()
        self._key = keys.worker_log(worker_id)
        self._lines: deque[str] = deque(maxlen=LINES)
        self._is_new = False
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line; a traceback counts as one."""
        self._lines.append(self.format(record))
        self._is_new = True

    def write(self, pipe: Pipeline) -> None:
        """Queue on `pipe` what is new, and another hour to live for all of it."""
        if self._is_new:
            self._is_new = False
            pipe.set(self._key, "\n".join(tuple(self._lines)))
        pipe.expire(self._key, keys.WORKER_LOG_TTL_S)
