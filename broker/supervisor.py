"""Starts a worker or Valkey again when it breaks: after a CUDA error, or when the system killed it.

Runs it as a child process, so that nothing of what broke is left. What ends by itself, because it
was asked to or because a flag is wrong, is not started again; what loses its supervisor ends as if
it were asked to. Knows a command and its exit status, and nothing of what the command does.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from broker.parent import end_with_parent

log = logging.getLogger(__name__)

BROKEN = os.EX_TEMPFAIL
"""Exit status of a process that is to be started again."""

_ASKED = (signal.SIGINT, signal.SIGTERM)
_MAX_PAUSE_S = 30.0
_STEADY_S = 60.0
"""What lived so long broke by chance, not because it always will."""


class Supervisor:
    """Runs one command until it ends by itself; must be used on the main thread."""

    def __init__(self, name: str, command: Sequence[str], pause_s: float = 1.0) -> None:
        """`name` is the log's word for what runs; the pause doubles up to half a minute."""
        self._name = name
        self._command = command
        self._pause_s = pause_s
        self._child: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()

    def run(self) -> int:
        """Run the command, again after each time that it breaks; return its last exit status.

        SIGINT and SIGTERM end the supervisor with its child, which gets SIGTERM.
        """
        for number in _ASKED:
            signal.signal(number, self._end)
        pause_s = self._pause_s
        while True:
            started_s = time.monotonic()
            status = self._run_once()
            if self._stop.is_set() or not _is_broken(status):
                return status if status >= 0 else 128 - status
            if time.monotonic() - started_s > _STEADY_S:
                pause_s = self._pause_s
            log.error("%s broke (status %d), starting it in %g s", self._name, status, pause_s)
            if self._stop.wait(pause_s):
                return 0
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def _run_once(self) -> int:
        # There are no threads here that could hold a lock while the child is forked.
        self._child = subprocess.Popen(self._command, preexec_fn=end_with_parent)
        if self._stop.is_set():  # a signal came before there was a child to end
            self._child.terminate()
        return self._child.wait()

    def _end(self, *_: object) -> None:
        self._stop.set()
        if self._child is not None:
            self._child.terminate()


def _is_broken(status: int) -> bool:
    return status == BROKEN or (status < 0 and -status not in _ASKED)
