"""Redis dies, forgets, fills up or turns read-only: every answer ends rightly or says why."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis.exceptions import OutOfMemoryError

from broker import channel, orders, registry
from tests.chaos.answers import Answer, Answers
from tests.chaos.cases import Case
from tests.chaos.redis_server import RedisServer
from tests.chaos.test_workers import nothing_is_left
from tests.frontend.clients import body, post
from tests.stack import Stack, free_port, until

WORDS = [f"w{place}" for place in range(60)]
TEXT = " ".join(WORDS)
SECONDS = 4.0
ECHO = f"tokens_per_s={len(WORDS) / SECONDS}"
IN_TIME_S = 15.0

pytestmark = pytest.mark.timeout(900)

wait = threading.Event().wait
"""How long a fault lasts."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "redis")
    yield made
    made.stop()


@pytest.fixture
def stack(server: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    made = Stack(server.url, tmp_path)
    yield made
    made.stop()


def asked(address: str, count: int) -> Answers:
    return Answers(address, [TEXT] * count)


def answers(address: str) -> bool:
    reply = post(address, body("all is well", max_tokens=2))
    return reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] == 2


def assert_answers_within(address: str, limit_s: float) -> None:
    until(lambda: answers(address), "new requests are answered", limit_s)


def assert_clear(errors: list[Answer], code: str, since_s: float) -> None:
    """Each came in time, names its cause and shows nothing of the machine."""
    for each in errors:
        assert each.error["code"] == code, each.error
        assert each.over_s - since_s < IN_TIME_S
        assert "127.0.0.1" not in each.error["message"]
        assert "Error" not in each.error["message"]


def assert_said_once(stack: Stack, times: int, line: str = "Redis does not answer; trying") -> None:
    """Every process said when it went and when it was back, and wrote no traceback."""
    for process in stack.processes:
        assert process.status is None, process.output
        until(lambda p=process: p.output.count("Redis answers again") == times, process.output)  # type: ignore[misc]
        assert process.output.count(line) == times, process.output
        assert "Traceback" not in process.output


def idle(stack: Stack) -> bool:
    running = sum(info.running for info in registry.workers(stack.redis))
    return running == 0 and nothing_is_left(stack, "echo")


def jobs_records(stack: Stack) -> list[bytes]:
    kinds = ("helio:job:*", "rq:job:*", "rq:execution*", "rq:wip:*", "rq:queue:*")
    return [key for kind in kinds for key in stack.redis.scan_iter(kind)]


def test_killed_while_a_hundred_answers_run(
    server: RedisServer, stack: Stack, case: Case, runs: int
) -> None:
    """Eighty run, twenty wait: with its file written each second all of them come out exactly."""
    for _ in range(2):
        stack.worker("--engine", "echo", "--model-path", f"echo?{ECHO}",
                     "--limit-model-concurrency", "40")  # fmt: skip
    address = stack.api()
    dice = random.Random(f"{case.name} {runs}")
    for _ in range(runs):
        streams = asked(address, 100)
        streams.until_tokens(dice.randrange(1, 40), answers=80)
        struck_s = server.kill()
        wait(3.0)
        server.start()
        case.note(streams.finish(), TEXT, struck_s)
        until(lambda: idle(stack), "nothing is left of the answers")
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    assert case.worst_s < IN_TIME_S, case.line()
    assert_said_once(stack, runs)


def test_back_without_its_last_second(
    server: RedisServer, stack: Stack, case: Case, runs: int
) -> None:
    """As after a power cut: what clients saw and Redis forgot is written again, or said lost."""
    worker = stack.echo_worker(ECHO)
    address = stack.api()
    for _ in range(runs):
        running = asked(address, 10)
        running.until_tokens(10)
        orders.pause(stack.redis, "echo")
        queued = asked(address, 5)
        until(lambda: stack.redis.llen("rq:queue:echo") == 5, "five wait")
        size = server.size()
        orders.resume(stack.redis, "echo")
        unknown = asked(address, 5)
        unknown.until_tokens(5)
        queued.until_tokens(5)
        struck_s = server.kill()
        server.cut(size)
        server.start()
        orders.resume(stack.redis, "echo")  # an order of the last second is forgotten as well
        told = running.finish() + queued.finish()
        case.note(told, TEXT, struck_s)
        assert_clear(unknown.finish(), "job_lost", struck_s)
        for each in told:
            logged = channel.read_log(stack.redis, each.job_id)
            assert [event.id.n for event in logged] == [*range(len(logged))]
        until(lambda: idle(stack), "nothing is left of the answers")
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    assert worker.output.count("a part of its log, which is whole again") >= case.answers
    assert_said_once(stack, runs)


def test_away_for_longer_than_readers_wait(
    server: RedisServer, stack: Stack, case: Case, runs: int
) -> None:
    stack.echo_worker(ECHO)
    address = stack.api()
    streams = asked(address, 20)
    streams.until_tokens(5)
    struck_s = server.kill()
    while time.monotonic() - struck_s < (16 if runs <= 2 else 30):
        began_s = time.monotonic()
        reply = post(address, body(TEXT))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "redis_unavailable")
        assert time.monotonic() - began_s < 1.0
        wait(1.0)
    told = streams.finish()
    case.note(told, TEXT, struck_s)
    assert_clear(told, "redis_unavailable", struck_s)
    server.start()
    assert_answers_within(address, IN_TIME_S)
    until(lambda: idle(stack), "nothing is left of the answers")
    assert_said_once(stack, 1)


def lose_everything(server: RedisServer, stack: Stack, how: str) -> float:
    if how == "flushed":
        stack.redis.flushall()
        return time.monotonic()
    struck_s = server.kill()
    server.empty()
    server.start()
    return struck_s


@pytest.mark.parametrize("how", ["restarted", "flushed"])
def test_empty(server: RedisServer, stack: Stack, case: Case, runs: int, how: str) -> None:
    workers = [stack.echo_worker("tokens_per_s=5&tokens=3000") for _ in range(2)]
    address = stack.api()
    for _ in range(runs):
        streams = asked(address, 20)
        streams.until_tokens(2)
        struck_s = lose_everything(server, stack, how)
        until(lambda: all(map(stack.info, workers)), "both workers are registered again", 5)
        told = streams.finish()
        case.note(told, TEXT, struck_s)
        assert_clear(told, "job_lost", struck_s)
        until(lambda: idle(stack), "all slots are free", 5)
        until(lambda: jobs_records(stack) == [], f"no ghosts: {jobs_records(stack)}", 10)
        assert answers(address)
    if how == "restarted":
        assert_said_once(stack, runs)


OVER = "Redis answers again"


def fill(stack: Stack) -> None:
    """Leave no memory for writes, and none of what buffers give free now and then."""
    room = 4 * 2**20
    limit = int(stack.redis.info("memory")["used_memory"]) + room
    stack.redis.config_set("maxmemory", limit)
    with pytest.raises(OutOfMemoryError):
        for place in range(1000):
            stack.redis.set(f"filler:{place}", b"x" * 2**14)
    stack.redis.config_set("maxmemory", limit - room // 2)


def test_full(server: RedisServer, stack: Stack, case: Case, runs: int) -> None:
    worker = stack.echo_worker(ECHO)
    address = stack.api()
    for run in range(runs):
        streams = asked(address, 20)
        streams.until_tokens(5)
        fill(stack)
        struck_s = time.monotonic()
        assert refused_s(address, "redis_full") < 1.0
        case.note(streams.finish(), TEXT, struck_s)
        wait(struck_s + 7.0 - time.monotonic())  # heartbeats and leases would have run out
        assert refused_s(address, "redis_full") < 1.0
        (model,) = httpx.get(f"{address}/v1/models").json()["data"]
        assert (model["id"], model["ready_workers"]) == ("echo", 1)
        stack.redis.config_set("maxmemory", 0)
        assert_answers_within(address, 5)
        stack.redis.delete(*stack.redis.scan_iter("filler:*"))
        until(lambda: idle(stack), "nothing is left of the answers")
        until(lambda run=run: worker.output.count(OVER) == run + 1, "the worker says so")  # type: ignore[misc]
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    assert worker.output.count("it is full") == runs, worker.output
    assert all(p.status is None and "Traceback" not in p.output for p in stack.processes)


def refused_s(address: str, code: str) -> float:
    """Send a request that Redis cannot take; return how long the refusal took."""
    began_s = time.monotonic()
    reply = post(address, body(TEXT))
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, code), reply.text
    assert "the operator has to" in reply.json()["error"]["message"]
    return time.monotonic() - began_s


def test_read_only(server: RedisServer, stack: Stack, case: Case, runs: int) -> None:
    stack.echo_worker("tokens_per_s=5&tokens=300")
    address = stack.api()
    for _ in range(1 if runs <= 2 else runs):
        streams = asked(address, 20)
        streams.until_tokens(2)
        stack.redis.replicaof("127.0.0.1", free_port())
        struck_s = time.monotonic()
        assert refused_s(address, "redis_read_only") < 1.0
        told = streams.finish()
        case.note(told, TEXT, struck_s)
        assert_clear(told, "redis_read_only", struck_s)
        until(lambda: registry.workers(stack.redis) == [], "heartbeats have run out")
        assert refused_s(address, "redis_read_only") < 1.0
        stack.redis.replicaof("NO", "ONE")
        assert_answers_within(address, IN_TIME_S)
    worker, _ = stack.processes
    assert worker.output.count("it is a replica") == case.runs, worker.output
    assert all(p.status is None and "Traceback" not in p.output for p in stack.processes)
