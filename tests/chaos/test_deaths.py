"""Workers that die of a job, or just before they have it: each job ends once, in text or error.

What kills is put into real worker processes: a job that its worker does not survive, an engine that
never comes back, a kill in the one moment when a job is in nobody's hands.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence

import pytest

from broker import quarantine
from broker.messages import GenerateRequest
from broker.supervisor import BROKEN
from frontend.service import Service
from tests.asking import ask
from tests.chaos.cases import Case, Readers
from tests.chaos.cursed import (
    DIES_BEFORE_A_CLAIM,
    EXPECTED,
    HANG,
    KILL,
    NOTICED_S,
    OPTIONS,
    PASS_S,
    TOKENS,
    poisoned,
    start,
)
from tests.chaos.test_workers import nothing_is_left
from tests.stack import Process, Stack, until
from tests.workers.test_broken import claims
from tests.workers.test_quarantine import failure

STREAMS = 6

pytestmark = pytest.mark.timeout(3600)


def ask_until(
    stack: Stack, submit: Callable[[], GenerateRequest], worker: Process
) -> list[GenerateRequest]:
    """Ask until a worker has one of the jobs, or has died of it."""
    info = stack.info(worker)
    assert info is not None
    asked: list[GenerateRequest] = []
    while worker.status is None and not any(info.id in claims(stack, each) for each in asked):
        asked.append(submit())
        until(lambda: claims(stack, asked[-1]) or worker.status is not None, "it is popped")
    return asked


def check(stack: Stack, case: Case) -> None:
    assert case.all_exact, case.line()
    until(lambda: nothing_is_left(stack, "echo"), "RQ's records are closed", 40)


def test_workers_killed_between_pop_and_claim(
    stack: Stack, service: Service, case: Case, runs: int
) -> None:
    """The one that dies was there first, so that it is the janitor: the worst that can be."""
    for _ in range(runs):
        (victim,) = start(stack, DIES_BEFORE_A_CLAIM)
        healthy = stack.echo_worker(OPTIONS)
        asked = ask_until(stack, lambda: ask(service, "word"), victim)
        died_s = time.monotonic()
        told = Readers(service, asked).finish()
        case.note(told, EXPECTED, died_s)
        assert victim.wait() == -signal.SIGKILL
        assert [len(claims(stack, each)) for each in asked] == [1] * len(asked)
        assert told[-1].events[0][0] - died_s <= 6, case.line()
        assert healthy.output.count("was popped but never started") == 1
        check(stack, case)
        healthy.stop()


def test_workers_that_hang_at_random_tokens(
    stack: Stack, service: Service, case: Case, runs: int
) -> None:
    dice = random.Random(f"{case.name} {runs}")
    stack.echo_worker(OPTIONS)
    for _ in range(runs):
        path = f"echo?{OPTIONS}&hangs_after={dice.randrange(1, TOKENS)}"
        flags = ("--engine", "echo", "--model-path", path, "--pass-seconds", str(PASS_S))
        hanging = stack.worker(*flags)
        asked = ask_until(stack, lambda: ask(service, "word"), hanging)
        asked += [ask(service, "word") for _ in range(STREAMS - len(asked))]
        case.note(Readers(service, asked).finish(), EXPECTED, None)
        assert hanging.wait() == BROKEN
        check(stack, case)
    assert case.moved >= runs, case.line()
    assert case.worst_s <= PASS_S + NOTICED_S, case.line()


def poison(stack: Stack, service: Service, case: Case) -> int:
    """Ask for what no worker survives, wait for its end; return how many died."""
    began_s = time.monotonic()
    asked = ask(service, "poison")
    error = failure(service, asked).error
    case.errors_s.append(time.monotonic() - began_s)
    assert (error.status, error.code) == (500, "worker_failed")
    assert asked.id in error.message
    (evidence,) = (each for each in quarantine.read_all(stack.redis) if each.job_id == asked.id)
    assert len(set(evidence.workers)) == len(evidence.workers) == evidence.deaths
    assert any(f"worker {evidence.workers[-1]} serves" in line for line in evidence.log)
    return evidence.deaths


def survivor(workers: Sequence[Process]) -> Process:
    """The last one that lives, once there is only one."""

    def alive() -> list[Process]:
        return [each for each in workers if each.status is None]

    until(lambda: len(alive()) == 1, "the others have ended")
    return alive()[0]


@pytest.mark.parametrize("effect", [KILL, HANG], ids=["kills", "hangs"])
def test_a_job_that_its_workers_do_not_survive(
    stack: Stack, service: Service, case: Case, runs: int, effect: str
) -> None:
    for _ in range(runs):
        workers = start(stack, poisoned(effect), 3)
        assert poison(stack, service, case) == 2
        left = survivor(workers)
        case.note(Readers(service, [ask(service, "word")]).finish(), EXPECTED, None)
        check(stack, case)
        left.stop()
    assert max(case.errors_s) <= 2 * (PASS_S + NOTICED_S), case.line()


@pytest.mark.parametrize("effect", [KILL, HANG], ids=["kills", "hangs"])
def test_a_job_that_its_workers_do_not_survive_beside_others(
    stack: Stack, service: Service, case: Case, runs: int, effect: str
) -> None:
    for _ in range(runs):
        workers = start(stack, poisoned(effect), 4)
        readers = Readers(service, [ask(service, "word") for _ in range(STREAMS)])
        readers.until_tokens(10)
        assert poison(stack, service, case) in (2, 3)
        case.note(readers.finish(), EXPECTED, None)
        check(stack, case)
        for each in workers:
            each.stop()
    assert max(case.errors_s) <= 20, case.line()
