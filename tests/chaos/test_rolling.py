"""Restarts in order: every worker of a fleet is replaced while streams go through the API."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import psutil
import pytest

from broker import keys
from frontend.service import Service
from tests.asking import ask
from tests.chaos.cases import Case, Readers, Told
from tests.chaos.streams import streamed
from tests.chaos.test_workers import STREAMS, nothing_is_left
from tests.stack import Process, Stack, until
from tests.workers.test_broken import child, claims, ready

TOKENS, ANSWER_S = 90, 3.0
ECHO = f"tokens_per_s={TOKENS / ANSWER_S}&tokens={TOKENS}"
EXPECTED = " ".join(["word"] * TOKENS)
LONG = "tokens_per_s=50&tokens=400"
LONG_EXPECTED = " ".join(["word"] * 400)
FLEET = 3
PERIOD_S = 0.2
"""A stream begins so often, however long the others take."""

pytestmark = pytest.mark.timeout(3600)


class Load:
    """An open load: streams that begin one after the other until it is stopped."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(100)
        self._streams: list[Future[Told]] = []
        self._thread = threading.Thread(target=self._begin, daemon=True)
        self._thread.start()

    def stop(self) -> list[Told]:
        """Begin no more, and wait for those that are open."""
        self._stopped.set()
        self._thread.join()
        self._pool.shutdown()
        return [stream.result() for stream in self._streams]

    def _begin(self) -> None:
        while not self._stopped.wait(PERIOD_S):
            self._streams.append(self._pool.submit(self._read))

    def _read(self) -> Told:
        told = Told()
        for event in streamed(self._address, "word"):
            if event is not None:
                told.events.append((time.monotonic(), event))
        return told


def drained_in_s(process: Process) -> float:
    """Ask a worker to end; return how long it took."""
    asked_s = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait(60) == 0, process.output
    return time.monotonic() - asked_s


@pytest.mark.parametrize("drain_s", [1, 60])
def test_all_workers_restarted_one_after_the_other(
    stack: Stack, case: Case, runs: int, drain_s: int
) -> None:
    """No stream fails; with a drain shorter than an answer the rest of it is handed over."""
    case.how = f"drain {drain_s} s"
    address = stack.api()
    flags = {"drain-seconds": str(drain_s)}
    fleet = [stack.echo_worker(ECHO, **flags) for _ in range(FLEET)]
    for _ in range(runs // 2):
        load = Load(address)
        for place, old in enumerate(fleet):
            fleet[place] = stack.echo_worker(ECHO, **flags)
            assert drained_in_s(old) < min(drain_s, ANSWER_S) + 2.0
        told = load.stop()
        case.note(told, EXPECTED, None)
        handed_over = sum(each.ids[-1].attempt > 1 for each in told)
        assert (handed_over > 0) is (drain_s < ANSWER_S)
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    assert case.worst_s < 2.0, case.line()
    until(lambda: nothing_is_left(stack, "echo"), "RQ's records are closed")


def supervised(stack: Stack) -> tuple[Process, psutil.Process]:
    """A supervisor and its worker, which is ready."""
    flags = ("--engine", "echo", "--model-path", f"echo?{LONG}", "--restart")
    supervisor = stack.worker(*flags, wait=False)
    worker = child(supervisor)
    until(lambda: ready(stack, worker.pid), f"the worker is ready\n{supervisor.output}")
    return supervisor, worker


def test_supervisors_killed(stack: Stack, case: Case, runs: int) -> None:
    """A worker without its supervisor hands its answers over and ends: nobody would restart it."""
    service = Service(stack.settings())
    for _ in range(runs):
        supervisor, worker = supervised(stack)
        asked = [ask(service, "word") for _ in range(STREAMS)]
        readers = Readers(service, asked)
        readers.until_tokens(20)
        other = stack.echo_worker(LONG)
        killed_s = time.monotonic()
        supervisor.signal(signal.SIGKILL)
        supervisor.wait()
        case.note(readers.finish(), LONG_EXPECTED, killed_s)
        assert all(len(claims(stack, each)) == 2 for each in asked)
        assert stack.redis.hget(keys.job(asked[0].id), "deaths") is None
        until(lambda gone=worker: not is_running(gone), "the worker ended")  # type: ignore[misc]
        other.stop()
    service.close()
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    assert case.worst_s < 2.0, case.line()


def is_running(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
