"""Keeps processes: one for each name that is wanted, started again when it ends by itself.

Called again and again; nothing here waits, and all processes end with this one. Must be used on the
main thread: a child ends with the thread that started it. Knows nothing of what they do.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from broker.parent import end_with_parent

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""A process that was asked to end and has not by then is killed."""
_MIN_PAUSE_S, _MAX_PAUSE_S = 1.0, 30.0
_STEADY_S = 60.0
"""A process that lived so long ended by chance, not because it always will."""


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    not_before_s: float = 0.0
    pause_s: float = _MIN_PAUSE_S
    asked_s: float | None = None


class Children:
    """The processes by name."""

    def __init__(self, command: Callable[[str], Sequence[str]]) -> None:
        """Start nothing yet; `command` tells what to run for a name."""
        self._command = command
        self._children: dict[str, _Child] = {}

    def __len__(self) -> int:
        return len(self._children)

    def keep(self, names: Collection[str]) -> None:
        """Start what is wanted and does not run, ask what is not wanted any more to end."""
        now_s = time.monotonic()
        for name in names:
            self._children.setdefault(name, _Child())
        for name, child in list(self._children.items()):
            self._look_after(name, child, name in names, now_s)
            if child.process is None and name not in names:
                del self._children[name]

    def _look_after(self, name: str, child: _Child, wanted: bool, now_s: float) -> None:
        if child.process is not None and (status := child.process.poll()) is not None:
            self._bury(name, child, status, now_s)
        if child.process is None:
            if wanted and now_s >= child.not_before_s:
                self._start(name, child, now_s)
        elif not wanted and child.asked_s is None:
            log.info("%s is not wanted any more", name)
            child.process.terminate()
            child.asked_s = now_s
        elif child.asked_s is not None and now_s - child.asked_s > PATIENCE_S:
            child.process.kill()

    def _start(self, name: str, child: _Child, now_s: float) -> None:
        child.process = subprocess.Popen(self._command(name), preexec_fn=end_with_parent)
        child.started_s, child.asked_s = now_s, None

    def _bury(self, name: str, child: _Child, status: int, now_s: float) -> None:
        child.process = None
        if child.asked_s is not None:
            return
        if now_s - child.started_s > _STEADY_S:
            child.pause_s = _MIN_PAUSE_S
        log.error("%s ended (status %d), starting it in %.0f s", name, status, child.pause_s)
        child.not_before_s = now_s + child.pause_s
        child.pause_s = min(2 * child.pause_s, _MAX_PAUSE_S)
