"""Orderly hand-overs: SIGTERM moves running answers to other workers, at once and uncounted."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from broker import keys, leases, quarantine, queues, registry
from broker.events import Claim, Delta, End, Event
from broker.messages import GenerateRequest
from frontend.service import Service
from tests.asking import answer, ask, deltas
from tests.stack import Process, Stack, until
from tests.workers import checkpoints
from tests.workers.test_broken import claims

LONG = "tokens_per_s=100&tokens=1000"
NOW = {"drain-seconds": "0"}


def follow(service: Service, asked: GenerateRequest) -> list[tuple[float, Event]]:
    """All events of an answer, each with the time at which it came."""
    return [(time.monotonic(), event) for event in service.follow(asked) if event is not None]


def gaps(seen: list[tuple[float, Event]]) -> list[float]:
    """Seconds from the last text of each attempt to the first of the next."""
    told = [(when, event) for when, event in seen if isinstance(event, Delta | End)]
    return [
        after[0] - before[0]
        for before, after in pairwise(told)
        if before[1].id.attempt != after[1].id.attempt
    ]


def by_id(stack: Stack, processes: list[Process]) -> dict[str, Process]:
    pids = {process.pid: process for process in processes}
    return {info.id: pids[info.pid] for info in registry.workers(stack.redis)}


def test_five_hand_overs_of_one_answer_change_no_token_and_take_no_time(
    stack: Stack, service: Service
) -> None:
    path = f"echo?{LONG}"
    flags = ("--engine", "echo", "--model-path", path, "--drain-seconds", "0")
    processes = [stack.worker(*flags, wait=False) for _ in range(6)]
    until(lambda: all(map(stack.info, processes)), "six workers are ready", 90)
    workers = by_id(stack, processes)
    asked = ask(service, "word")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow, service, asked)
        for hop in range(1, 6):
            until(lambda hop=hop: len(claims(stack, asked)) == hop, f"attempt {hop} runs")  # type: ignore[misc]
            leaving = workers[claims(stack, asked)[-1]]
            leaving.signal(signal.SIGTERM)
            assert leaving.wait() == 0
        seen = following.result()
    last = seen[-1][1]
    assert isinstance(last, End) and last.usage.completion_tokens == 1001
    assert [event.id for _, event in seen] == sorted({event.id for _, event in seen})
    text = "".join(event.text for _, event in seen if isinstance(event, Delta | End))
    assert text == " ".join(["word"] * 1000)
    assert sorted(claims(stack, asked)) == sorted(workers)
    assert len([event for _, event in seen if isinstance(event, Claim)]) == 6
    assert len(gaps(seen)) == 5 and max(gaps(seen)) < 2.0
    assert stack.redis.hmget(keys.job(asked.id), "deaths", "failures") == [None, None]
    assert quarantine.read_all(stack.redis) == []
    assert leases.read(stack.redis, "echo") == []


def test_jobs_handed_over_to_nobody_wait_in_their_order(stack: Stack, service: Service) -> None:
    worker = stack.echo_worker(LONG, **NOW)
    asked = [ask(service, f"job-{n}") for n in range(4)]
    for each in asked:
        deltas(service, each, 2)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    waiting = stack.redis.lrange(queues.queue_key("echo"), 0, -1)
    assert waiting == [each.id.encode() for each in asked]
    assert leases.read(stack.redis, "echo") == []
    for each in asked:
        assert stack.redis.hget(keys.job(each.id), "state") == b"queued"
        assert stack.redis.hget(f"rq:job:{each.id}", "status") == b"queued"
        assert stack.redis.hget(keys.job(each.id), "deaths") is None


@pytest.mark.parametrize("state", ["loading", "ready"])
def test_a_worker_that_has_only_just_started_leaves_the_registry_at_once(
    stack: Stack, tmp_path: Path, state: str
) -> None:
    """`ready` is told a moment before the first job is taken."""
    path = checkpoints.save_text_model(tmp_path / "llama", "llama")
    worker = stack.worker("--model-path", str(path), wait=False)
    until(lambda: [each for each in registry.workers(stack.redis) if each.state == state], state)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert registry.workers(stack.redis) == []
    assert "got SIGTERM" in worker.output and "Traceback" not in worker.output


def test_a_worker_may_drain_for_as_long_as_it_is_told(stack: Stack, service: Service) -> None:
    worker = stack.echo_worker("tokens_per_s=100&tokens=500", **{"drain-seconds": "60"})
    asked = ask(service, "word")
    deltas(service, asked, 2)
    worker.signal(signal.SIGTERM)
    until(lambda: registry.workers(stack.redis)[0].state == "draining", "it says so")
    late = ask(service, "late")
    assert answer(service, asked)[0] == " ".join(["word"] * 500)
    assert worker.wait() == 0
    assert len(claims(stack, asked)) == 1
    assert queues.position(stack.redis, "echo", late.id) == 0
