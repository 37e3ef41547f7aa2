"""The bytes of a stream, event by event: the test itself is the worker and decides what happens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from broker import channel, queues, registry
from broker.channel import Claimed
from broker.errors import ContextLengthExceeded, WorkerFailed
from broker.events import (
    Delta,
    End,
    EventId,
    Failed,
    FinishReason,
    Likely,
    Timings,
    TokenLogprob,
    Usage,
)
from broker.messages import WorkerInfo
from tests.frontend.clients import CHAT, Connection, body
from tests.stack import Stack, until

MODEL = "by-hand"


class HandWorker:
    """A worker as Redis sees one, with every step made by the test."""

    def __init__(self, client: redis.Redis, **told: object) -> None:
        self.redis = client
        record = {"id": "hand", "model": MODEL, "engine": "echo", "device": "cpu", "host": "here"}
        self._info = WorkerInfo.model_validate(record | {"pid": 1, "state": "ready"} | told)
        self.model = self._info.model
        self._left = threading.Event()
        self._pulse = threading.Thread(target=self._announce, daemon=True)
        self._pulse.start()

    def _announce(self) -> None:
        while True:
            pipe = self.redis.pipeline()
            registry.announce(pipe, self._info)
            pipe.execute()
            if self._left.wait(1.0):
                return

    def leave(self) -> None:
        self._left.set()
        self._pulse.join()

    def pop(self) -> str:
        raw: Any = until(lambda: self.redis.lpop(queues.queue_key(self.model)), "a job is queued")
        return str(raw.decode())

    def claim(self, job_id: str) -> int:
        pipe = self.redis.pipeline()
        channel.claim(pipe, job_id, "hand")
        claimed = channel.read_claim(pipe.execute()[0])
        assert isinstance(claimed, Claimed)
        return claimed.attempt

    def say(self, job_id: str, event_id: EventId, text: str, *told: TokenLogprob) -> None:
        channel.append(self.redis, [(job_id, Delta(event_id, text, (1,), told))])

    def end(
        self,
        job_id: str,
        event_id: EventId,
        text: str = "",
        reason: FinishReason = "stop",
        told: tuple[TokenLogprob, ...] = (),
    ) -> None:
        end = End(event_id, text, (2,), reason, Usage(7, 3), Timings(0.1, 0.2, 0.3), told)
        channel.append(self.redis, [(job_id, end)])

    def fail(self, job_id: str, event_id: EventId, error: Exception) -> None:
        assert isinstance(error, ContextLengthExceeded | WorkerFailed)
        channel.append(self.redis, [(job_id, Failed(event_id, error.body))])


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    return echo_stack.api()


@pytest.fixture
def worker(echo_stack: Stack) -> Iterator[HandWorker]:
    made = HandWorker(echo_stack.redis)
    until(lambda: registry.workers(echo_stack.redis)[-1:], "the worker is known")
    yield made
    made.leave()


@pytest.fixture
def stream(address: str, worker: HandWorker) -> Iterator[Connection]:
    """A connection whose streamed request is on its way."""
    until(lambda: MODEL in {info.model for info in registry.workers(worker.redis)}, "announced")
    with Connection(address) as connection:
        connection.send(body(model=MODEL, stream=True, stream_options={"include_usage": True}))
        yield connection


def events(connection: Connection) -> list[tuple[str | None, Any]]:
    """(event id, parsed data or "[DONE]") of the rest of a stream, which must end with [DONE]."""
    found: list[tuple[str | None, Any]] = []
    mark = None
    for line in connection.lines():
        if line.startswith("id: "):
            mark = line.removeprefix("id: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                return [*found, (mark, data)]
            found.append((mark, json.loads(data)))
            mark = None
    raise AssertionError(f"the stream broke off after {found}")


def test_every_event_carries_the_id_that_the_log_gave_it(
    stream: Connection, worker: HandWorker
) -> None:
    job_id = worker.pop()
    attempt = worker.claim(job_id)
    worker.say(job_id, EventId(attempt, 1), "Hel")
    worker.say(job_id, EventId(attempt, 2), "")
    worker.say(job_id, EventId(attempt, 3), "lo\n")
    worker.end(job_id, EventId(attempt, 4), "end")
    first, hel, lo, end, finish, usage, done = events(stream)
    shared = {
        "id": f"chatcmpl-{job_id}",
        "object": "chat.completion.chunk",
        "created": first[1]["created"],
        "model": MODEL,
    }

    def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**shared, "choices": [choice], "usage": None}

    assert first == (None, chunk({"role": "assistant", "content": ""}))
    assert hel == ("1-1", chunk({"content": "Hel"}))
    assert lo == ("1-3", chunk({"content": "lo\n"}))
    assert end == ("1-4", chunk({"content": "end"}))
    assert finish == ("1-4", chunk({}, "stop"))
    counts = {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert usage == ("1-4", {**shared, "choices": [], "usage": counts})
    assert done == (None, "[DONE]")


HALF = TokenLogprob(b"\xc3", -0.5, (Likely(b"\xc3", -0.5), Likely(b"E", -1.25)))
REST = TokenLogprob(b"\xa9", -0.0625, (Likely(b"\xa9", -0.0625), Likely(b"\xa8", -4.0)))
LAST = TokenLogprob(b"<|im_end|>", -9999.0)


def entry(token: str, logprob: float, numbers: list[int]) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": numbers}


ENTRIES = [
    entry("\ufffd", -0.5, [195])
    | {"top_logprobs": [entry("\ufffd", -0.5, [195]), entry("E", -1.25, [69])]},
    entry("\ufffd", -0.0625, [169])
    | {"top_logprobs": [entry("\ufffd", -0.0625, [169]), entry("\ufffd", -4.0, [168])]},
    entry("<|im_end|>", -9999.0, list(b"<|im_end|>")) | {"top_logprobs": []},
]


def test_logprobs_go_with_the_event_of_their_tokens_even_without_text(
    stream: Connection, worker: HandWorker
) -> None:
    job_id = worker.pop()
    attempt = worker.claim(job_id)
    worker.say(job_id, EventId(attempt, 1), "", HALF)
    worker.say(job_id, EventId(attempt, 2), "\xe9", REST)
    worker.end(job_id, EventId(attempt, 3), told=(LAST,))
    choices = [data["choices"][0] for _, data in events(stream)[:5]]
    pieces = [(choice["delta"].get("content"), choice["logprobs"]) for choice in choices]
    assert pieces == [
        ("", None),
        ("", {"content": ENTRIES[:1], "refusal": None}),
        ("\xe9", {"content": ENTRIES[1:2], "refusal": None}),
        ("", {"content": ENTRIES[2:], "refusal": None}),
        (None, None),
    ]


def test_the_logprobs_of_a_whole_answer_are_those_of_all_attempts(
    address: str, worker: HandWorker
) -> None:
    until(lambda: MODEL in {info.model for info in registry.workers(worker.redis)}, "announced")
    with Connection(address) as connection:
        connection.send(body(model=MODEL, logprobs=True, top_logprobs=2))
        job_id = worker.pop()
        worker.say(job_id, EventId(worker.claim(job_id), 1), "", HALF)
        second = worker.claim(job_id)
        worker.end(job_id, EventId(second, 1), "\xe9", told=(REST, LAST))
        (choice,) = connection.body()["choices"]
    assert choice["message"]["content"] == "\xe9"
    assert choice["logprobs"] == {"content": ENTRIES, "refusal": None}


def test_another_worker_goes_on_in_the_same_stream(stream: Connection, worker: HandWorker) -> None:
    job_id = worker.pop()
    worker.say(job_id, EventId(worker.claim(job_id), 1), "first ")
    stream.wait_for("id: 1-1")
    second = worker.claim(job_id)
    worker.say(job_id, EventId(second, 1), "second")
    worker.end(job_id, EventId(second, 2))
    texts = [
        (mark, data["choices"][0]["delta"].get("content"))
        for mark, data in events(stream)
        if data != "[DONE]" and data["choices"]
    ]
    assert texts == [(None, "first "), ("2-1", "second"), ("2-2", None)]


def test_the_status_waits_for_the_first_news_so_that_a_refusal_can_be_one(
    stream: Connection, worker: HandWorker
) -> None:
    job_id = worker.pop()
    attempt = worker.claim(job_id)
    refused = ContextLengthExceeded("Too long: 9 tokens of 8.", param="messages")
    worker.fail(job_id, EventId(attempt, 1), refused)
    assert "400" in stream.wait_for("HTTP/1.1")
    assert stream.body()["error"]["message"] == "Too long: 9 tokens of 8."


def test_a_silent_stream_begins_after_a_second_with_a_comment(
    stream: Connection, worker: HandWorker
) -> None:
    began = time.monotonic()
    assert "200" in stream.wait_for("HTTP/1.1")
    assert 0.9 < time.monotonic() - began < 3.0
    assert stream.wait_for("X-Queue-Position") == "X-Queue-Position: 0"
    assert stream.wait_for(":") == ": queue position 0"
    job_id = worker.pop()
    worker.end(job_id, EventId(worker.claim(job_id), 1), "late")
    assert events(stream)[-1][1] == "[DONE]"


def test_a_silent_stream_is_kept_alive_with_comments(
    stream: Connection, worker: HandWorker
) -> None:
    job_id = worker.pop()
    worker.say(job_id, EventId(worker.claim(job_id), 1), "hm")
    stream.wait_for("id: 1-1")
    began = time.monotonic()
    assert stream.wait_for(":") == ": waiting"
    assert 4.0 < time.monotonic() - began < 7.0
    worker.end(job_id, EventId(1, 2))


def test_an_error_after_the_first_token_is_an_event_and_ends_the_stream(
    stream: Connection, worker: HandWorker
) -> None:
    job_id = worker.pop()
    attempt = worker.claim(job_id)
    worker.say(job_id, EventId(attempt, 1), "half")
    stream.wait_for("id: 1-1")
    worker.fail(job_id, EventId(attempt, 2), WorkerFailed("The worker failed."))
    *_, error, done = events(stream)
    assert error == (
        None,
        {
            "error": {
                "message": "The worker failed.",
                "type": "server_error",
                "param": None,
                "code": "worker_failed",
            }
        },
    )
    assert done == (None, "[DONE]")


def test_an_answer_that_was_cancelled_elsewhere_ends_with_stop(
    stream: Connection, worker: HandWorker
) -> None:
    job_id = worker.pop()
    worker.end(job_id, EventId(worker.claim(job_id), 1), "half", "cancelled")
    reasons = [data["choices"][0]["finish_reason"] for _, data in events(stream)[:3]]
    assert reasons == [None, None, "stop"]


def test_a_stream_is_not_cached_buffered_or_sniffed(address: str) -> None:
    with httpx.stream("POST", address + CHAT, json=body(stream=True)) as response:
        headers = response.headers
        lines = list(response.iter_lines())
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-content-type-options"] == "nosniff"
    assert lines[-2:] == ["data: [DONE]", ""]
    assert not [line for line in lines if "usage" in line]


def test_a_connection_serves_several_requests(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        for _ in range(3):
            with client.stream("POST", CHAT, json=body(stream=True)) as response:
                assert "[DONE]" in response.read().decode()
            assert client.post(CHAT, json=body()).status_code == 200
        assert client.get("/health").json() == {"status": "ok"}
