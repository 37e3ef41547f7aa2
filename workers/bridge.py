"""`python -m workers bridge`: foreign workers become part of the fleet.

For each model that foreign workers serve (see `broker.foreign`) it keeps one worker process, which
takes the model's jobs from its queue and sends them to those workers. One bridge at a time is at
work, under a lock; others stand by. Workers that registered without saying what they serve are
asked, and so, again and again, are those that send no heartbeats.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

from redis.exceptions import RedisError

from broker import cell, foreign, keys, logs
from broker.addresses import AllowList
from broker.connection import connect
from broker.errors import ConfigurationError, UpstreamFailed
from broker.foreign import ForeignWorker
from broker.settings import DISPATCH_METHODS, Settings
from workers import lock
from workers.children import Children
from workers.outbound import open_client
from workers.status import ASK_S, ask_status

log = logging.getLogger(__name__)

PERIOD_S = 1.0
ASK_AGAIN_S = 5.0
LOCK_S = 5
DRAIN_S = 12.0
"""How long the processes have to end when the bridge does."""


class Bridge:
    """The bridge of the moment, or one that stands by; used on one event loop."""

    def __init__(self, settings: Settings, flags: Sequence[str] = ()) -> None:
        """Connect to nothing yet; `flags` are passed on to the processes."""
        self._id = uuid.uuid4().hex[:12]
        # It answers on the event loop: while Redis is away there is nothing else to do.
        self._redis = connect(settings.url, retry=False)
        self._client = open_client(AllowList.parse(settings.worker_addresses), ASK_S)
        self._children = Children(lambda model: _command(model, flags))
        self._models: frozenset[str] = frozenset()
        self._known: frozenset[str] = frozenset()
        self._stop = asyncio.Event()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._next_ask_s: dict[str, float] = {}
        self._complaints: dict[str, str] = {}
        self._holds: bool | None = None

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop`; then end all processes."""
        while not self._stop.is_set():
            self._look()
            self._children.keep(self._models)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), PERIOD_S)
        await self._end_children()
        with suppress(RedisError):
            lock.let_go(self._redis, keys.BRIDGE_LOCK, self._id)
        for task in self._asking.values():
            task.cancel()
        await self._client.aclose()

    async def _end_children(self) -> None:
        deadline_s = time.monotonic() + DRAIN_S
        self._children.keep(())
        while len(self._children) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.05)
            self._children.keep(())

    def _look(self) -> None:
        """See whose turn it is and who is registered; while Redis is away, all stays as it is."""
        try:
            holds = lock.hold(self._redis, keys.BRIDGE_LOCK, self._id, LOCK_S)
            workers = foreign.workers(self._redis) if holds else []
        except RedisError as error:
            log.warning("Redis does not answer: %s", error)
            return
        if holds != self._holds:
            log.info("this bridge %s", "is at work" if holds else "stands by")
            self._holds = holds
        if holds:
            self._note_changes({worker.address: worker for worker in workers})
        self._models = frozenset(model for worker in workers for model in worker.models)
        self._ask(workers)

    def _note_changes(self, workers: dict[str, ForeignWorker]) -> None:
        """Log who came and who went."""
        for address in sorted(workers.keys() - self._known):
            models = ", ".join(workers[address].models) or "models that it will be asked for"
            log.info("%s registered, with %s", address, models)
        for address in sorted(self._known - workers.keys()):
            log.info("%s is registered no more", address)
        self._known = frozenset(workers)

    def _ask(self, workers: Collection[ForeignWorker]) -> None:
        """Ask those who do not say by themselves what they serve, each at its time."""
        now_s = time.monotonic()
        silent = {each.address: each for each in workers if not (each.models and each.heartbeats)}
        self._next_ask_s = {a: s for a, s in self._next_ask_s.items() if a in silent}
        self._complaints = {a: words for a, words in self._complaints.items() if a in silent}
        for address, worker in silent.items():
            if address not in self._asking and now_s >= self._next_ask_s.get(address, 0.0):
                self._next_ask_s[address] = now_s + ASK_AGAIN_S
                self._asking[address] = asyncio.create_task(self._ask_models(worker))

    async def _ask_models(self, worker: ForeignWorker) -> None:
        try:
            status = await ask_status(self._client, worker.address.rstrip("/"))
            if status.cell and status.cell == cell.cell_id(self._redis):
                self._complain(worker, "is this cell itself, and is withdrawn")
                foreign.withdraw(self._redis, worker.address)
            elif status.models != worker.models:
                log.info("%s serves %s", worker.address, ", ".join(status.models) or "nothing")
                foreign.tell_models(self._redis, worker.address, status.models)
            self._complaints.pop(worker.address, None)
        except UpstreamFailed as error:
            self._complain(worker, str(error))
        except RedisError as error:
            log.warning("Redis does not answer: %s", error)
        finally:
            del self._asking[worker.address]

    def _complain(self, worker: ForeignWorker, words: str) -> None:
        """Log what is wrong with a worker, once for each time that it changes."""
        if self._complaints.get(worker.address) != words:
            self._complaints[worker.address] = words
            log.warning("%s %s", worker.address, words)


def _command(model: str, flags: Sequence[str]) -> list[str]:
    # With "=", because a model's name may begin with "-".
    start = [sys.executable, "-m", "workers", "--engine", "foreign", f"--model-name={model}"]
    return [*start, *flags]


def _parse_flags(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers bridge", description=__doc__)
    parser.add_argument(
        "--limit-model-concurrency",
        type=int,
        metavar="SLOTS",
        help="requests that each foreign worker may get at once (default: 5, as they do)",
    )
    parser.add_argument(
        "--dispatch-method",
        choices=DISPATCH_METHODS,
        help="which of a model's workers gets a request (default: HELIOGRAPH_DISPATCH_METHOD)",
    )
    return parser.parse_args(argv)


def _passed_on(flags: argparse.Namespace) -> Iterator[str]:
    """The flags of the processes.

    Raises:
        ConfigurationError: one is out of range.
    """
    limit = flags.limit_model_concurrency
    if limit is not None:
        if limit < 1:
            raise ConfigurationError(f"--limit-model-concurrency {limit} must be at least 1.")
        yield f"--limit-model-concurrency={limit}"
    if flags.dispatch_method is not None:
        yield f"--dispatch-method={flags.dispatch_method}"


async def _run(bridge: Bridge) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, bridge.stop)
    await bridge.run()


def main(argv: list[str]) -> None:
    """Run a bridge until a signal asks to stop; a wrong setting ends it with one sentence."""
    try:
        flags = _parse_flags(argv)
        settings = Settings.from_environment()
        logs.set_up(settings)
        asyncio.run(_run(Bridge(settings, tuple(_passed_on(flags)))))
    except ConfigurationError as error:
        sys.exit(f"heliograph bridge: {error}")
