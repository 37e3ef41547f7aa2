"""Workers, and the janitor among them, whose machine's clock is wrong by five minutes."""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broker import keys
from broker.events import End
from broker.messages import GenerateRequest
from frontend.service import Service
from tests.asking import ask
from tests.chaos.cases import Case, Readers, Told
from tests.stack import Process, Stack, until
from tests.workers.test_broken import claims

TOKENS = 450
ECHO = ("--engine", "echo", "--model-path", f"echo?tokens_per_s=50&tokens={TOKENS}")
EXPECTED = " ".join(["word"] * TOKENS)
LASTS_S = 15.0
"""More than an answer takes from its submission on, and far less than any clock is wrong."""

pytestmark = pytest.mark.timeout(3600)


Start = Callable[[], Process]


class WrongClock:
    """Starts processes whose time of day is wrong by so many seconds, which may change."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "wrong_clock.so", folder / "offset"
        source = Path(__file__).with_name("wrong_clock.c")
        flags = ("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
        subprocess.run(["cc", *flags, "-o", library, source], check=True)
        self._file.write_bytes(struct.pack("l", 0))
        self._env = {"LD_PRELOAD": str(library), "WRONG_CLOCK": str(self._file)}

    def set(self, offset_s: int) -> None:
        with self._file.open("r+b") as file:  # never shorter: processes have it mapped
            file.write(struct.pack("l", offset_s))

    def worker(self, stack: Stack) -> Process:
        return stack.worker(*ECHO, wait=True, **self._env)


@pytest.fixture
def clock(tmp_path: Path) -> WrongClock:
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("clocks are made wrong by a library that needs Linux and a C compiler")
    return WrongClock(tmp_path)


def told_id(stack: Stack, process: Process) -> str:
    info = stack.info(process)
    assert info is not None
    return info.id


def timings_hold(told: Told) -> bool:
    last = told.events[-1][1]
    assert isinstance(last, End)
    times = last.timings
    return 0.0 <= times.queued_s < times.first_token_s < times.total_s < LASTS_S


@pytest.mark.parametrize("offset_s", [300, -300])
def test_healthy_jobs_while_a_clock_is_wrong(
    stack: Stack, service: Service, clock: WrongClock, case: Case, runs: int, offset_s: int
) -> None:
    """Each is run once, whether the janitor's clock is wrong or that of whom it looks after."""
    for run in range(runs):
        clock.set(offset_s)
        starts: list[Start] = [lambda: clock.worker(stack), lambda: stack.worker(*ECHO)]
        first, second = starts if run % 2 == 0 else starts[::-1]
        workers = [first()]
        until_it_is_the_janitor(stack, workers[0])
        asked = [ask(service, "word") for _ in range(4)]
        until_claimed(stack, asked)
        workers.append(second())
        asked += until_one_is_taken_by(stack, service, workers[1])
        assert_wrong_by(stack, workers[run % 2], offset_s)
        readers = Readers(service, asked)
        readers.until_tokens(100)
        clock.set(-offset_s)  # and while it runs somebody sets it, wrongly again
        case.note(told := readers.finish(), EXPECTED, None)
        assert [len(claims(stack, each)) for each in asked] == [1] * len(asked)
        assert all(map(timings_hold, told)), [each.events[-1] for each in told]
        for process in workers:
            process.stop()
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()


def assert_wrong_by(stack: Stack, worker: Process, offset_s: int) -> None:
    info = stack.info(worker)
    assert info is not None and abs(info.started_s - time.time() - offset_s) < 60


def until_it_is_the_janitor(stack: Stack, worker: Process) -> None:
    wanted = told_id(stack, worker).encode()
    until(lambda: stack.redis.get(keys.JANITOR_LOCK) == wanted, "it is the janitor")


def until_claimed(stack: Stack, asked: list[GenerateRequest]) -> None:
    until(lambda: all(claims(stack, each) for each in asked), "all are claimed")


def until_one_is_taken_by(stack: Stack, service: Service, worker: Process) -> list[GenerateRequest]:
    """Ask until a certain worker has a job; return all that was asked."""
    wanted, asked = told_id(stack, worker), [ask(service, "word")]
    until_claimed(stack, asked)
    while wanted not in claims(stack, asked[-1]):
        asked.append(ask(service, "word"))
        until_claimed(stack, asked)
    return asked


@pytest.mark.parametrize("offset_s", [300, -300])
def test_workers_killed_while_the_janitors_clock_is_wrong(
    stack: Stack, service: Service, clock: WrongClock, case: Case, runs: int, offset_s: int
) -> None:
    """Their answers go on as soon as ever: nobody waits five minutes for a lease to end."""
    clock.set(offset_s)
    until_it_is_the_janitor(stack, clock.worker(stack))
    for _ in range(runs // 2):
        victim = stack.worker(*ECHO)
        asked = until_one_is_taken_by(stack, service, victim)
        readers = Readers(service, asked)
        readers.until_tokens(20)
        killed_s = time.monotonic()
        victim.signal(signal.SIGKILL)
        victim.wait()
        case.note(readers.finish(), EXPECTED, killed_s)
        assert len(claims(stack, asked[-1])) == 2
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    assert case.worst_s < 10.0, case.line()
