"""A client that leaves frees its slot within a few tokens, whatever it was waiting for."""

from __future__ import annotations

from typing import Any

import pytest

from broker import keys, queues
from broker.channel import read_log
from broker.events import Delta
from tests.frontend.clients import Connection, body
from tests.stack import Process, Stack, until

TOKENS_PER_S = 20


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    return echo_stack.api()


@pytest.fixture(scope="module")
def worker(echo_stack: Stack) -> Process:
    """One slot, and an answer that takes 100 seconds."""
    options = f"tokens_per_s={TOKENS_PER_S}&tokens={100 * TOKENS_PER_S}"
    flags = {"limit-model-concurrency": "1", "model-name": "slow"}
    return echo_stack.echo_worker(options, **flags)


def last_chat(stack: Stack) -> dict[str, str]:
    entries: Any = stack.redis.xrevrange(keys.CHAT_LOG, count=1)
    if not entries:
        return {}
    return {key.decode(): value.decode() for key, value in entries[0][1].items()}


def running(stack: Stack, worker: Process) -> int:
    info = stack.info(worker)
    return info.running if info else 0


def is_free(stack: Stack, worker: Process) -> bool:
    info = stack.info(worker)
    return info is not None and info.running == 0


@pytest.fixture(autouse=True)
def everything_is_free_again(echo_stack: Stack, worker: Process) -> Any:
    yield
    until(lambda: is_free(echo_stack, worker), "the slot is free")
    assert echo_stack.redis.llen(queues.queue_key("slow")) == 0


def test_closing_in_mid_stream_cancels_the_job_within_a_few_tokens(
    echo_stack: Stack, address: str, worker: Process
) -> None:
    with Connection(address) as client:
        client.send(body("word", model="slow", stream=True))
        chunk = client.wait_for("data: ")
        job_id = chunk.partition("chatcmpl-")[2].partition('"')[0]
        client.wait_for("id: 1-3")
    until(lambda: last_chat(echo_stack).get("job") == job_id, "the job has ended")
    assert last_chat(echo_stack)["outcome"] == "cancelled"
    tokens = [event for event in read_log(echo_stack.redis, job_id) if isinstance(event, Delta)]
    assert len(tokens) <= 3 + TOKENS_PER_S // 2


def test_closing_before_a_whole_answer_cancels_the_job(
    echo_stack: Stack, address: str, worker: Process
) -> None:
    before = last_chat(echo_stack).get("job")
    with Connection(address) as client:
        client.send(body("word", model="slow"))
        until(lambda: running(echo_stack, worker), "the job runs")
    until(lambda: last_chat(echo_stack).get("job") != before, "the job has ended")
    assert last_chat(echo_stack)["outcome"] == "cancelled"
    assert len(last_chat(echo_stack)["answer"].split()) < 3 * TOKENS_PER_S


@pytest.mark.parametrize("stream", [False, True])
def test_closing_while_queued_takes_the_job_out_of_the_queue(
    echo_stack: Stack, address: str, worker: Process, stream: bool
) -> None:
    queue = queues.queue_key("slow")
    with Connection(address) as busy:
        busy.send(body("word", model="slow", stream=True))
        busy.wait_for("id: 1-1")
        with Connection(address) as client:
            client.send(body("word", model="slow", stream=stream))
            (waiting,) = until(lambda: echo_stack.redis.lrange(queue, 0, -1), "it waits")
        until(lambda: not echo_stack.redis.llen(queue), "it has left the queue")
        assert echo_stack.redis.hget(keys.job(waiting.decode()), "state") == b"cancelled"
        busy.wait_for("data: ")


def test_a_reader_that_ends_its_answer_leaves_nothing_to_cancel(
    echo_stack: Stack, address: str, worker: Process
) -> None:
    with Connection(address) as client:
        client.send(body("one two", model="slow", stream=True, max_tokens=2))
        client.wait_for("data: [DONE]")
    until(lambda: last_chat(echo_stack).get("outcome") == "length", "the answer is logged")
    api = next(process for process in echo_stack.processes if "api" in process.log.name)
    job_id = last_chat(echo_stack)["job"]
    assert f"job {job_id} cancelled" not in api.output
