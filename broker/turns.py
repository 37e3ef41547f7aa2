"""A pool's idle connections, given to whoever has waited longest.

A plain queue wakes the first one in line, but whoever runs before it takes the item away: of a
thousand requests at once some would wait for as long as others come, and give up.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Any


class _Turn:
    """One in the line, and what it is given."""

    def __init__(self) -> None:
        self.has_come = threading.Event()
        self.item: Any = None


class Turns:
    """What redis-py's blocking pool needs of a queue: last in, first out, first come, first served.

    For threads as well as for greenlets.
    """

    def __init__(self, maxsize: int) -> None:
        """Hold at most `maxsize` items."""
        self.queue: list[Any] = []
        self._maxsize = maxsize
        self._line: deque[_Turn] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)

    def put_nowait(self, item: Any) -> None:
        """Give an item to the first in line, or keep it.

        Raises:
            queue.Full: nobody waits and there is no room.
        """
        with self._lock:
            if self._line:
                turn = self._line.popleft()
                turn.item = item
                turn.has_come.set()
            elif len(self.queue) < self._maxsize:
                self.queue.append(item)
            else:
                raise queue.Full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the newest item; wait for one in line.

        Raises:
            queue.Empty: none has come in time.
        """
        with self._lock:
            if self.queue:
                return self.queue.pop()
        if not block:
            raise queue.Empty
        # Made without the lock: what makes an object may have the collector free a connection.
        turn = _Turn()
        with self._lock:
            if self.queue:
                return self.queue.pop()
            self._line.append(turn)
        try:
            turn.has_come.wait(timeout)
        except BaseException:  # a greenlet may be told to end while it waits
            if self._has_come(turn):
                self.put_nowait(turn.item)
            raise
        if not self._has_come(turn):
            raise queue.Empty
        return turn.item

    def _has_come(self, turn: _Turn) -> bool:
        """Whether a turn has come; if not it leaves the line."""
        with self._lock:
            if not turn.has_come.is_set():
                self._line.remove(turn)
                return False
        return True
