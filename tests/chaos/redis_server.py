"""A Redis of a test's own that it may kill, empty and start again on the same port."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.stack import free_port, start_valkey


class RedisServer:
    """The embedded server as the local stack runs it: append-only file, written each second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self._popen = start_valkey(self.port, self.folder)
        self.pid = self._popen.pid

    def kill(self) -> float:
        """End it with SIGKILL; return when."""
        self._popen.kill()
        self._popen.wait()
        return time.monotonic()

    def stop(self) -> None:
        self.kill()

    def empty(self) -> None:
        """Delete its files; it must not run."""
        shutil.rmtree(self.folder)

    def size(self) -> int:
        """Bytes of the append-only file so far."""
        return self._log().stat().st_size

    def cut(self, size: int) -> None:
        """Leave that much of the append-only file, as if the rest had not come to the disk."""
        with self._log().open("r+b") as file:
            file.truncate(size)

    def _log(self) -> Path:
        (log,) = self.folder.glob("appendonlydir/*.incr.aof")
        return log
