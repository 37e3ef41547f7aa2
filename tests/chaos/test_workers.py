"""Workers that die or freeze in the middle of answers: every text comes out exactly, once."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import pytest

from broker import leases, registry
from broker.queues import intermediate_key, queue_key
from frontend.service import Service
from tests.asking import ask
from tests.chaos.cases import Case, Readers
from tests.stack import Process, Stack, until

TOKENS = 150
ECHO = f"tokens_per_s=100&tokens={TOKENS}"
EXPECTED = " ".join(["word"] * TOKENS)
STREAMS = 6

pytestmark = pytest.mark.timeout(3600)


def busiest(stack: Stack, workers: Sequence[Process], ids: Iterable[str]) -> Process:
    """The worker whose id comes most often."""
    ((worker_id, _),) = Counter(ids).most_common(1)
    (pid,) = (info.pid for info in registry.workers(stack.redis) if info.id == worker_id)
    return next(each for each in workers if each.pid == pid)


def kill(process: Process) -> None:
    process.signal(signal.SIGKILL)
    process.wait()


def freeze(process: Process) -> threading.Timer:
    """Stop a worker for longer than its leases last; it wakes up as somebody who lost its jobs."""
    process.signal(signal.SIGSTOP)
    waking = threading.Timer(9.0, process.signal, (signal.SIGCONT,))
    waking.start()
    return waking


def nothing_is_left(stack: Stack, model: str) -> bool:
    waiting = stack.redis.llen(queue_key(model)) + stack.redis.llen(intermediate_key(model))  # type: ignore[operator]
    return not waiting and not leases.read(stack.redis, model)


def strike(
    stack: Stack,
    service: Service,
    case: Case,
    runs: int,
    fault: Callable[[Process], threading.Timer | None],
) -> None:
    """Have a fault hit a worker at a random token of its answers, again and again."""
    dice = random.Random(f"{case.name} {runs}")
    workers = [stack.echo_worker(ECHO), stack.echo_worker(ECHO)]
    for _ in range(runs):
        readers = Readers(service, [ask(service, "word") for _ in range(STREAMS)])
        readers.until_tokens(dice.randrange(1, TOKENS - 40))
        struck_s = time.monotonic()
        victim = busiest(stack, workers, readers.workers)
        waking = fault(victim)
        case.note(readers.finish(), EXPECTED, struck_s)
        if waking is not None:
            waking.join()
        if victim.status is not None:
            workers[workers.index(victim)] = stack.echo_worker(ECHO)
        until(lambda: nothing_is_left(stack, "echo"), "RQ's records are closed", 40)
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    assert case.moved >= runs, case.line()


def test_workers_killed_at_random_tokens(
    stack: Stack, service: Service, case: Case, runs: int
) -> None:
    strike(stack, service, case, runs, kill)
    assert case.worst_s < 5, case.line()


def test_workers_frozen_at_random_tokens(
    stack: Stack, service: Service, case: Case, runs: int
) -> None:
    strike(stack, service, case, runs, freeze)
    assert case.worst_s < 7, case.line()
