"""The pulse: once a second a worker says that it lives, and renews what it holds.

Also looks for orders and cancellations whose message was lost, and lets the janitor work. Runs from
before the model is loaded, so that people see the loading; survives a Redis that goes away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis
from redis.exceptions import RedisError

from broker import cancellation, keys, registry
from broker.messages import WorkerInfo
from broker.outage import Outage
from workers.janitor import Janitor
from workers.running import RunningJob
from workers.watchdog import Watchdog
from workers.worker import BatchWorker

log = logging.getLogger(__name__)

PERIOD_S = 1.0
SPEED_WINDOW = 10
"""Pulses over which tokens/s are averaged."""
PEAK_DECAY = 0.998
"""What is left of the best speed after a second of work: half of it after about six minutes."""


class Pulse:
    """The heartbeat thread of one worker process, within the context; the registry's last word too.

    A worker that leaves the context by an error stays in the registry for a minute as failed.
    """

    def __init__(self, client: redis.Redis, info: WorkerInfo, outage: Outage) -> None:
        """Announce `info` within the context; `attach` a worker once its engine is loaded."""
        self._client = client
        self._info = info
        self._outage = outage
        self._worker: BatchWorker | None = None
        self._watchdog: Watchdog | None = None
        self._janitor = Janitor(client, info.id)
        self._counts: deque[tuple[float, int]] = deque(maxlen=SPEED_WINDOW)
        self._peak_speed = 0.0
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(2.0)
        try:
            if isinstance(error, Exception):
                self._tell_failure(str(error) or repr(error))
            else:
                registry.withdraw(self._client, self._info.id)
        except RedisError as failure:
            log.warning("leaving the registry failed, the heartbeat expires instead: %s", failure)

    def progress(self, percent: int) -> None:
        """Tell how far loading is; it shows in the registry at once and in the log by tens."""
        before = self._info.progress
        self._info = self._info.model_copy(update={"progress": percent})
        if percent // 10 > before // 10 or percent == 100:
            log.info("loading %s: %d %%", self._info.model, percent)
        self._wake.set()

    def attach(self, worker: BatchWorker, watchdog: Watchdog) -> None:
        """Go from loading to ready: from now on slots, running jobs and speed are told."""
        self._watchdog = watchdog
        update = {"state": "ready", "progress": 100, "device": worker.engine.device}
        self._info = self._info.model_copy(update=update)
        self._worker = worker
        self._wake.set()

    def _tell_failure(self, reason: str) -> None:
        pipe = self._client.pipeline()
        failed = {"state": "failed", "reason": reason, "running": 0, "speed": 0.0}
        registry.announce(pipe, self._now().model_copy(update=failed))
        pipe.execute()

    def _run(self) -> None:
        while not self._stop.is_set():
            complaint = ""
            try:
                self._beat()
                self._outage.end("heartbeats")
            except RedisError as error:
                self._outage.begin("heartbeats", error)
            except Exception as error:  # with no pulse others take its jobs, and it would take more
                log.exception("the pulse failed")
                complaint = f"The pulse failed: {error!r}."
            self._watch(complaint)
            self._wake.wait(PERIOD_S)
            self._wake.clear()

    def _watch(self, complaint: str) -> None:
        if self._watchdog is not None and (complaint := complaint or self._watchdog.complaint()):
            with suppress(Exception):
                self._tell_failure(complaint)
            self._watchdog.bite(complaint)

    def _beat(self) -> None:
        """Beat, obey and sweep, each as far as Redis allows: a full one refuses some writes only.

        Raises:
            RedisError: what it did not allow.
        """
        pipe = self._client.pipeline(transaction=False)
        worker = self._worker
        running = tuple(worker.running_jobs.values()) if worker is not None else ()
        pipe.sismember(keys.PAUSED, self._info.model)
        pipe.hget(keys.worker(self._info.id), "drain")
        cancellation.look(pipe, [job.id for job in running])
        if worker is not None:
            worker.renew(pipe)
        registry.announce(pipe, self._now())
        replies = pipe.execute(raise_on_error=False)
        if worker is not None:
            self._obey(worker, running, replies)
        self._janitor.sweep()
        _raise_first(replies)

    def _obey(self, worker: BatchWorker, running: Sequence[RunningJob], replies: list[Any]) -> None:
        _raise_first(replies[:3])
        paused, drain, (gone, cancelled) = replies[:3]
        worker.pause(paused == 1)
        if drain == b"1":
            worker.drain("an order")
        for place in gone:
            worker.lose(running[place])
        for place in cancelled:
            worker.cancel(running[place].id)

    def _now(self) -> WorkerInfo:
        worker = self._worker
        if worker is None:
            return self._info
        self._counts.append((time.monotonic(), worker.tokens))
        (first_s, first), (last_s, last) = self._counts[0], self._counts[-1]
        speed = (last - first) / (last_s - first_s) if last_s > first_s else 0.0
        self._peak_speed = max(speed, self._peak_speed * PEAK_DECAY if speed else self._peak_speed)
        state = "unavailable" if worker.trouble else "ready"
        changes = {
            "state": "draining" if worker.is_draining else state,
            "reason": worker.trouble,
            "slots": worker.engine.slots,
            "context_length": worker.engine.context_length,
            "images": worker.engine.images,
            "running": len(worker.running_jobs),
            "speed": round(speed, 1),
            "peak_speed": round(self._peak_speed, 1),
            "job_s": round(worker.job_s, 4),
        }
        return self._info.model_copy(update=changes)


def _raise_first(replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, RedisError):
            raise reply
