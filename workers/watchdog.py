"""Ends the process of an engine that hangs or is not heard, which nothing inside can stop or mend.

A pass that does not come back, because a driver or a kernel hangs, would keep its jobs for ever,
as the heartbeats go on beside it, and so would a publisher that failed. So the pulse looks at both.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from typing import Final

from broker.supervisor import BROKEN
from workers.worker import BatchWorker

log = logging.getLogger(__name__)

PASS_S: Final = 60.0
CPU_PASS_S: Final = 300.0
"""A pass is bounded in tokens; but a big picture on few cores may take minutes."""


class Watchdog:
    """Called once a second; bites once."""

    def __init__(self, worker: BatchWorker, limit_s: float | None) -> None:
        """Give a pass at most `limit_s` seconds, 0 for ever; None: what suits the device."""
        if limit_s is None:
            limit_s = CPU_PASS_S if worker.engine.device == "cpu" else PASS_S
        self._limit_s = limit_s
        self._worker = worker

    def complaint(self) -> str:
        """Say what is wrong with the worker; empty if nothing is."""
        if self._worker.is_mute:
            return "Nothing that the engine says can be told any more."
        if not 0 < self._limit_s < self._worker.pass_s:
            return ""
        return f"The engine has been in one pass for {self._worker.pass_s:.0f} s, it hangs."

    def bite(self, complaint: str) -> None:
        """Give the jobs away, counting a death for each, and end the process without a return."""
        log.critical("%s This process ends; below is where its threads are.", complaint)
        faulthandler.dump_traceback()
        try:
            self._worker.abandon()
        finally:  # whatever fails now: it must not stay
            os._exit(BROKEN)
