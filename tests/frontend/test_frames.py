"""An answer's events as the chunks of the original protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from broker.errors import (
    ErrorBody,
    HeliographError,
    InvalidImage,
    LoopDetected,
    NoLiveWorker,
    QueueFull,
    QueueTimeout,
    RedisUnavailable,
    RequestTooLarge,
    UpstreamFailed,
    WorkerFailed,
)
from broker.events import Claim, Delta, End, Event, EventId, Failed, Timings, Usage
from frontend.api import frames
from frontend.api.client import ClientGone
from frontend.api.frames import Chunks, error_code, stream

TEXTS = ["né", ' "quoted"\n', "\0\u2028", "🙂", "</s>", "\\"]


def delta(n: int, text: str) -> Delta:
    return Delta(EventId(1, n), text, (n,))


def end(text: str = "", reason: Any = "stop") -> End:
    return End(EventId(1, 99), text, (), reason, Usage(7, 3), Timings(0.0, 0.0, 0.0))


def read(events: list[Event | None], *, outcome: bool = False, prompt: str = "") -> list[Any]:
    raw = b"".join(stream(iter(events), Chunks(prompt, outcome=outcome), "job1"))
    *chunks, rest = raw.split(b"\0")
    assert rest == b""
    return [json.loads(chunk) for chunk in chunks if chunk]


def test_a_chunk_is_what_the_originals_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "CHUNK_S", 0.0)
    chunks = Chunks('<image>\n"é', outcome=False)
    so_far = '<image>\n"é'
    for text in TEXTS:
        chunks.add(text)
        so_far += text
        expected = json.dumps({"text": so_far, "error_code": 0}).encode() + b"\0"
        assert chunks.chunk() == expected
    assert chunks.last(end("!")) == json.dumps({"text": so_far + "!", "error_code": 0}).encode() + (
        b"\0"
    )


def test_each_chunk_repeats_the_text_and_the_last_one_has_all() -> None:
    told = read([Claim(EventId(1, 0), "w"), delta(1, "one"), delta(2, " two"), end(" three")])
    assert told[0] == {"text": "one", "error_code": 0}
    assert told[-1] == {"text": "one two three", "error_code": 0}
    texts = [chunk["text"] for chunk in told]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


def test_fastchats_last_chunk_says_why_and_how_much() -> None:
    *before, last = read([delta(1, "one"), end(reason="length")], outcome=True)
    assert before == [{"text": "one", "error_code": 0, "finish_reason": None}]
    assert last == {
        "text": "one",
        "error_code": 0,
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        "finish_reason": "length",
    }


def test_an_answer_without_a_word_is_one_chunk() -> None:
    assert read([end()], prompt="p") == [{"text": "p", "error_code": 0}]


def test_chunks_are_no_faster_than_their_readers() -> None:
    events: list[Event | None] = [delta(n, " word") for n in range(1, 5001)]
    told = read([*events, end()])
    assert len(told) < 1000
    assert told[-1]["text"] == " word" * 5000


def test_silence_is_broken_by_empty_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(frames.time, "monotonic", lambda: float(next(clock)))
    raw = b"".join(stream(iter([None] * 10 + [end("x")]), Chunks("", outcome=False), "job1"))
    assert raw == b"\0" * 4 + b'{"text": "x", "error_code": 0}\0'


def failing(error: Exception) -> Iterator[Event | None]:
    yield delta(1, "so far")
    raise error


@pytest.mark.parametrize(
    ("events", "text", "code"),
    [
        ([Failed(EventId(1, 1), WorkerFailed("It broke.").body)], "It broke. (job job1)", 3),
        ([Failed(EventId(1, 1), InvalidImage("Bad.").body)], "Bad. (job job1)", 1),
        (failing(NoLiveWorker("All gone, job1 too.")), "All gone, job1 too.", 2),
        (failing(RedisUnavailable("Away.")), "Away. (job job1)", 3),
        ([], "The answer has no end. (job job1)", 3),
    ],
)
def test_a_failure_is_one_last_chunk_with_our_sentence(events: Any, text: str, code: int) -> None:
    told = list(stream(iter(events), Chunks("", outcome=True), "job1"))
    assert [each for each in told if b'"error_code": 0' not in each] == told[-1:]
    assert json.loads(told[-1][:-1]) == {"text": text, "error_code": code}


def test_what_nobody_foresaw_shows_nothing_of_itself() -> None:
    told = list(stream(failing(KeyError("secret")), Chunks("", outcome=False), "job1"))
    last = json.loads(told[-1][:-1])
    assert last["error_code"] == 3 and "secret" not in last["text"]


def test_nothing_is_written_for_a_client_that_is_gone() -> None:
    assert len(list(stream(failing(ClientGone()), Chunks("", outcome=False), "job1"))) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidImage("x"), 1), (RequestTooLarge("x"), 1), (LoopDetected("x"), 1),
        (NoLiveWorker("x"), 2), (QueueFull("x"), 2), (QueueTimeout("x"), 2), (WorkerFailed("x"), 3),
        (UpstreamFailed("x"), 3), (RedisUnavailable("x"), 3), (HeliographError("x"), 3),
    ],
)  # fmt: skip
def test_errors_have_the_originals_numbers(error: HeliographError, code: int) -> None:
    assert error_code(error.body) == code


def test_an_unknown_model_is_no_worker() -> None:
    assert error_code(ErrorBody(404, "invalid_request_error", "model_not_found", "x")) == 2
