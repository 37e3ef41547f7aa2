"""Faults at random: processes are killed or told to end, Redis is killed and comes back.

Each kind of fault comes once before any comes again. In the first half of a run the processes of
side 0 are struck, in the second half those of side 1, so that each process also lives for long
enough to show whether its memory grows. Redis serves both.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

from bench.fleet import Api, Fleet, Worker, lives
from tests.stack import until

PAUSE_S = (4.0, 10.0)
"""Time between what one fault has stopped being started again and the next fault."""

AWAY_S = (0.5, 3.0)
"""How long Redis is away; readers wait 13 s for it."""


class Strikes:
    """Strikes until it is stopped, on a thread of its own."""

    def __init__(self, fleet: Fleet, seed: str, half_s: float) -> None:
        """Begin; side 1 is struck from `half_s` seconds on."""
        self.counts: Counter[str] = Counter()
        self.away: list[tuple[float, float]] = []
        """When Redis went and when it was back, by the monotonic clock."""
        self._fleet = fleet
        self._dice = random.Random(f"{seed} strikes")
        self._half_s = half_s
        self._began_s = time.monotonic()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Strike no more; everything that was struck serves again.

        Raises:
            AssertionError: something did not come back.
        """
        self._stopped.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        for part in self._fleet.parts:
            self._fleet.wait_for(part)

    def _run(self) -> None:
        try:
            for name, strike in self._deck():
                if self._stopped.wait(self._dice.uniform(*PAUSE_S)):
                    return
                self.counts[name] += 1
                strike()
        except BaseException as failure:
            self._failure = failure

    @property
    def _side(self) -> int:
        return int(time.monotonic() - self._began_s >= self._half_s)

    def _deck(self) -> Iterator[tuple[str, Callable[[], None]]]:
        fleet = self._fleet
        kinds: dict[str, Callable[[], None]] = {
            "worker killed": lambda: self._kill_child(fleet.workers[self._side]),
            "worker told to end": lambda: self._end(fleet.workers[self._side]),
            "supervisor killed": lambda: self._kill_parent(fleet.workers[self._side]),
            "demo worker killed": lambda: self._kill_child(fleet.demo_workers[self._side]),
            "demo worker told to end": lambda: self._end(fleet.demo_workers[self._side]),
            "api killed": lambda: self._kill_all(fleet.apis[self._side]),
            "api's serving process killed": lambda: self._kill_child(fleet.apis[self._side]),
            "api told to end": lambda: self._end(fleet.apis[self._side]),
            "redis killed": self._kill_redis,
            "redis and worker killed": self._kill_redis_and_worker,
        }
        while True:
            names = list(kinds)
            self._dice.shuffle(names)
            yield from ((name, kinds[name]) for name in names)

    def _kill_child(self, part: Api | Worker) -> None:
        """Its parent starts it again."""
        self._fleet.wait_for(part)
        for pid in part.pids[1:]:
            kill(pid)

    def _kill_parent(self, part: Worker) -> None:
        """What it looked after ends by itself."""
        self._fleet.wait_for(part)
        children = part.pids[1:]
        part.process.signal(signal.SIGKILL)
        part.process.wait()
        until(lambda: not any(map(lives, children)), f"{part.role} ends without its supervisor")
        part.start()

    def _kill_all(self, part: Api) -> None:
        self._fleet.wait_for(part)
        for pid in part.pids:
            kill(pid)
        part.process.wait()
        part.start()

    def _end(self, part: Api | Worker) -> None:
        self._fleet.wait_for(part)
        part.process.signal(signal.SIGTERM)
        part.process.wait(30)
        part.start()

    def _kill_redis(self, *others: int) -> None:
        gone_s = time.monotonic()
        self._fleet.redis.kill()
        for pid in others:
            kill(pid)
        self._stopped.wait(self._dice.uniform(*AWAY_S))
        self._fleet.redis.start()
        self.away.append((gone_s, time.monotonic()))

    def _kill_redis_and_worker(self) -> None:
        worker = self._fleet.workers[self._side]
        self._fleet.wait_for(worker)
        self._kill_redis(*worker.pids[1:])


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
