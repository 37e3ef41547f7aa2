"""Takes jobs: as many as there is room for, unless the model is paused or the worker has to end.

`Taking.run` has a thread to itself. Redis may go away and come back at any time: it waits. Knows
neither how jobs run nor how they end; it is told when one has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import redis
from redis.exceptions import RedisError

from broker import orders
from broker.outage import FIRST_PAUSE_S, MAX_PAUSE_S, Outage
from workers.intake import POP_TIMEOUT_S, Intake
from workers.running import Runner, RunningJob

log = logging.getLogger(__name__)

_SUSPECTS_PAUSE_S = 0.2


class Taking:
    """Takes the jobs of one model; all but `run` may be called from any thread."""

    def __init__(
        self,
        client: redis.Redis,
        intake: Intake,
        runner: Runner,
        running: Mapping[str, RunningJob],
        keep: Callable[[str], bool],
        start: Callable[[Sequence[RunningJob]], None],
        outage: Outage,
    ) -> None:
        """Take nothing before `run`.

        Args:
            client: says whether the model is paused.
            intake: where jobs come from.
            runner: says how many jobs may run, and whether any can.
            running: those that do, as of now.
            keep: goes on with a popped job that runs here already; False if it does not.
            start: runs jobs that were claimed.
            outage: the one of this process.
        """
        self._client = client
        self._intake = intake
        self._runner = runner
        self._running = running
        self._keep = keep
        self._start = start
        self._outage = outage
        self._slot_freed = threading.Condition()
        self._stopping = threading.Event()
        self._paused: bool | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether no more jobs will ever be taken."""
        return self._stopping.is_set()

    @property
    def is_paused(self) -> bool:
        """Whether no jobs are taken for a while."""
        return bool(self._paused)

    def stop(self) -> None:
        """Take no more jobs."""
        self._stopping.set()

    def pause(self, paused: bool) -> None:
        """Take no new jobs for a while, or take them again."""
        if paused != self.is_paused:
            log.info("new jobs are %s", "not taken, the model is paused" if paused else "taken")
        self._paused = paused
        self.note_freed()

    def note_freed(self) -> None:
        """Note that a slot may be free."""
        with self._slot_freed:
            self._slot_freed.notify()

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until no job runs, but not for longer."""
        deadline_s = time.monotonic() + seconds
        with self._slot_freed:
            while self._running and (left_s := deadline_s - time.monotonic()) > 0:
                self._slot_freed.wait(left_s)

    def run(self) -> None:
        """Take jobs until `stop`."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                self._take()
                pause_s = FIRST_PAUSE_S
            except RedisError as error:
                self._outage.begin("new jobs", error)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    @property
    def _is_open(self) -> bool:
        return not (self.is_stopping or self.is_paused or self._runner.trouble)

    def _take(self) -> None:
        if self._paused is None:
            self.pause(self._intake.model in orders.paused(self._client))
        with self._slot_freed:
            free = self._runner.slots - len(self._running)
            if free <= 0 or not self._is_open:
                self._slot_freed.wait(POP_TIMEOUT_S)
                return
        job_ids = self._intake.pop(free)
        self._outage.end("new jobs")
        if not self._is_open:  # it came while this thread waited for jobs
            self._intake.put_back(job_ids)
            return
        self._claim([job_id for job_id in job_ids if not self._keep(job_id)])

    def _claim(self, job_ids: list[str]) -> None:
        spare_suspects = any(job.is_suspect for job in tuple(self._running.values()))
        claimed = self._intake.claim(job_ids, spare_suspects=spare_suspects)
        self._start(claimed)
        if job_ids and not claimed:  # suspects that wait for one another are popped again and again
            self._stopping.wait(_SUSPECTS_PAUSE_S)
