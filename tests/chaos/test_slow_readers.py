"""Slow readers beside others: neither the others nor the memory of any process feels them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from broker import keys
from frontend.api.client import STALL_S
from tests.chaos.cases import Case
from tests.chaos.meanwhile import meanwhile
from tests.chaos.streams import Client, Starved, p99_gap_s
from tests.stack import Process, Stack, until

SPEED = 20
READERS = 50
SLOW_SPEED = 10
WORD = 1000 * "x"
"""So long that a slow reader's backlog is soon more than its socket holds."""

MAX_GROWTH_BYTES = 60 * 2**20

pytestmark = pytest.mark.timeout(1800)


def server(process: Process) -> psutil.Process:
    """The process that serves the connections of an API."""
    (child,) = until(psutil.Process(process.pid).children, "the API has started its process")
    return child


def ask(api: str, seconds: int, readers: int = READERS) -> list[Client]:
    wanted = {"text": "word", "model": "normal", "max_tokens": SPEED * seconds}
    return [Client([api], wanted) for _ in range(readers)]


def starve(api: str, seconds: int) -> list[Starved]:
    wanted = {"text": WORD, "model": "slow", "max_tokens": SLOW_SPEED * seconds}
    wanted["on_disconnect"] = "detach"
    return [Starved(api, wanted) for _ in range(READERS)]


@contextmanager
def sipping(slow: Sequence[Starved]) -> Iterator[None]:
    """Have them take ten bytes a second meanwhile."""

    def sip() -> None:
        for each in slow:
            each.sip()

    try:
        with meanwhile(sip, 1.0):
            yield
    finally:
        for each in slow:
            each.gulp()


@pytest.fixture
def api(stack: Stack) -> str:
    """An API beside a worker for slow readers and one for the others."""
    for name, speed in (("normal", SPEED), ("slow", SLOW_SPEED)):
        flags = {"model-name": name, "limit-model-concurrency": str(READERS)}
        stack.echo_worker(f"tokens_per_s={speed}&tokens={60 * speed}", **flags)
    address = stack.api()
    assert httpx.get(f"{address}/health").status_code == 200  # all is loaded
    return address


def memory(stack: Stack) -> tuple[int, int]:
    """Bytes that the API and Redis hold."""
    used: Any = stack.redis.info("memory")["used_memory"]
    return server(stack.processes[-1]).memory_info().rss, int(used)


def growth(stack: Stack, before: tuple[int, int]) -> tuple[int, int]:
    api, server = memory(stack)
    return api - before[0], server - before[1]


def test_fifty_slow_readers_beside_fifty_others(stack: Stack, api: str, case: Case) -> None:
    expected = " ".join(["word"] * SPEED * 6)
    told = [client.finish() for client in ask(api, 6)]
    case.note(told, expected, time.monotonic())
    alone_s = p99_gap_s(told)
    before = memory(stack)
    slow = starve(api, 30)
    with sipping(slow):
        told = [client.finish() for client in ask(api, 6)]
        case.note(told, expected, time.monotonic())
        grown = growth(stack, before)
    beside_s = p99_gap_s(told)
    assert case.all_exact, case.line()
    assert beside_s <= 2 * alone_s, f"p99 gap {alone_s:.3f} s alone, {beside_s:.3f} s beside them"
    assert max(grown) <= MAX_GROWTH_BYTES


def test_slow_readers_are_given_up_and_may_come_back(stack: Stack, api: str, case: Case) -> None:
    before = memory(stack)
    process = server(stack.processes[-1])
    slow = starve(api, 22)
    began_s = time.monotonic()
    until(lambda: connections(process) == READERS, "they are connected")
    with sipping(slow):
        until(lambda: connections(process) == 0, "they are given up", STALL_S + 12)
    assert STALL_S <= time.monotonic() - began_s <= STALL_S + 10
    told = [each.come_back(api) for each in slow]
    case.note(told, " ".join([WORD] * SLOW_SPEED * 22), time.monotonic())
    assert case.all_exact, case.line()
    assert max(growth(stack, before)) <= MAX_GROWTH_BYTES


def connections(process: psutil.Process) -> int:
    """Clients that the API serves."""
    found = process.net_connections()
    ports = {each.laddr.port for each in found if each.status == "LISTEN"}
    return sum(each.laddr.port in ports and each.status != "LISTEN" for each in found)


def test_a_subscriber_that_redis_cuts_off_goes_on_from_the_log(
    stack: Stack, api: str, case: Case, runs: int
) -> None:
    """What is too much for the output buffer of a subscriber is lost there, and nowhere else."""
    stack.redis.config_set("client-output-buffer-limit", "pubsub 64kb 64kb 1")
    subscriber = server(stack.processes[-1])
    for _ in range(runs):
        clients = ask(api, 4, 10)
        for client in clients:
            client.until_tokens(20)
        subscriber.send_signal(signal.SIGSTOP)
        stopped_s = time.monotonic()
        before = cut_off(stack)
        while cut_off(stack) == before:
            stack.redis.publish(keys.live(clients[0].job_id), 100_000 * b"x")
            assert time.monotonic() - stopped_s < 5.0
        subscriber.send_signal(signal.SIGCONT)
        told = [client.finish() for client in clients]
        case.note(told, " ".join(["word"] * SPEED * 4), stopped_s)
    assert case.all_exact, case.line()


def cut_off(stack: Stack) -> int:
    """Clients that Redis has cut off because they read too slowly."""
    return int(stack.redis.info("stats")["client_output_buffer_limit_disconnections"])
