"""What is written for foreign workers and read from them, without a connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.errors import ContextLengthExceeded, InvalidRequest, UpstreamFailed, WorkerFailed
from tests.workers.foreign_stack import message
from workers.engines.foreign.conversations import read, render
from workers.engines.foreign.dialects import guess
from workers.engines.foreign.echoed import EchoedPrompt
from workers.engines.foreign.stream import EXCEEDED, Frame, Growth, frames

GOLDEN: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("fastchat_prompts.json").read_text("utf-8")
)
"""Prompts that two versions of FastChat's own class wrote, a template for each separator style."""

TURNS = (
    message("user", "Who are you?"),
    message("assistant", "A model."),
    message("user", " And {now}? "),
)


@pytest.mark.parametrize(
    "golden", GOLDEN, ids=lambda row: f"{row['conv']['name']}-{row['conv']['sep_style']}"
)
def test_fastchats_prompts_are_its_own_or_none(golden: dict[str, Any]) -> None:
    found = read({"conv": golden["conv"]})
    if golden["prompt"] is None:
        assert found is None
        return
    assert found is not None
    system = (message("system", golden["system"]),) if golden["system"] else ()
    assert render(found, (*system, *TURNS)) == golden["prompt"]


@pytest.mark.parametrize(
    "reply",
    [{}, {"conv": None}, {"conv": {"roles": ["a"], "sep_style": 1}}, {"conv": {"roles": 3}}],
)
def test_a_template_that_is_none_is_not_used(reply: dict[str, Any]) -> None:
    assert read(reply) is None


def test_nothing_in_a_strangers_template_is_evaluated() -> None:
    conv = {"roles": ["{role.__class__}", "B"], "sep_style": 1, "sep": "{0}"}
    found = read({"conv": {**conv, "system_template": "{system_message.__class__}!"}})
    assert found is not None
    assert (
        render(found, (message("user", "hi"),))
        == "{system_message.__class__}!{0}{role.__class__}: hi{0}B:"
    )
    with pytest.raises(InvalidRequest, match="one system message, before all others"):
        render(found, (message("user", "a"), message("system", "b")))


def test_a_picture_in_fastchats_prompt_stands_before_its_text() -> None:
    found = read({"conv": {"roles": ["A", "B"], "sep_style": 1, "sep": "|"}})
    assert found is not None
    asked = (message("user", "what $$<image>$$ is it?", "0" * 64, "1" * 64),)
    assert render(found, asked) == "|A: $$<image>$$$$<image>$$what $$<image >$$ is it?|B:"


@pytest.mark.parametrize(
    ("model", "dialect"),
    [
        ("llava-v1.5-7b", "llava"),
        ("vicuna-7b", "llava"),
        ("InternVL2-8B", "internvl"),
        ("InternVL2_5-1B", "internvl"),
        ("InternVL-Chat-V1-5", "llava"),
        ("InternVL_Chat_V1-2-Plus", "llava"),
        ("llava-internvl", "llava"),
    ],
)
def test_a_models_name_tells_what_its_worker_speaks(model: str, dialect: str) -> None:
    assert guess(model, fastchat=False) == dialect
    assert guess(model, fastchat=True) == "fastchat"


PROMPT = "Be kind.</s> USER: <image>\nWhat is  it? ASSISTANT:"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (PROMPT, ""),
        (PROMPT + " A cat. ", "A cat."),
        (PROMPT.strip() + "A cat", "A cat"),
        ("Be kind. USER:  What is it? ASSISTANT: A cat", "A cat"),
        ("<s> Be kind.</s> USER: <im_start><image><im_end>\nWhat is  it? ASSISTANT:A", "A"),
        ("A cat", "A cat"),
        ("Be kind. USER:", None),
        ("", None),
    ],
)
def test_the_prompt_is_cut_off_however_it_comes_back(text: str, answer: str | None) -> None:
    assert EchoedPrompt(PROMPT).cut(text) == answer


def test_an_answer_that_begins_like_the_prompt_is_told_at_its_end() -> None:
    echoed = EchoedPrompt(PROMPT)
    assert [echoed.cut("Be"), echoed.cut("Be kind."), echoed.cut("Be kind.", last=True)] == [
        None,
        None,
        "Be kind.",
    ]


def test_a_prompt_that_comes_back_changed_is_an_error() -> None:
    with pytest.raises(UpstreamFailed, match="repeated the prompt otherwise"):
        EchoedPrompt(PROMPT).cut("Be kind. USER: What is that? ASSISTANT: A cat")


def grow(texts: list[str], *stop: str) -> list[str]:
    growth = Growth(stop)
    told = [growth.push(text) for text in texts if not growth.stopped]
    return [*told, growth.end()]


@pytest.mark.parametrize(
    ("texts", "stop", "told"),
    [
        (["a", "a b", "a b c"], (), ["a", " b", " c", ""]),
        (["a", "a", "a"], (), ["a", "", "", ""]),
        (["a ", "a  b", "a  b\n"], (), ["a", "  b", "", "\n"]),
        (["a</", "a</s>", "a"], ("</s>",), ["a", "", ""]),
        (["a<", "a", "a"], ("</s>",), ["a", "", "", ""]),
        (["a<", "a<b"], ("</s>",), ["a", "<b", ""]),
        (["a #", "a ##", "a"], ("###",), ["a", "", "", ""]),
        (["a STOP b"], ("STOP",), ["a ", ""]),
        (["a \ufffd", "a \u00e9"], (), ["a", " \u00e9", ""]),
        (["a\ufffd"], (), ["a", "\ufffd"]),
        (["Ex", "Exceeds", "Exceeds it"], (), ["", "", "Exceeds it", ""]),
        (["Ex"], (), ["", "Ex"]),
        ([""], (), ["", ""]),
    ],
)
def test_only_what_is_certain_is_told(
    texts: list[str], stop: tuple[str, ...], told: list[str]
) -> None:
    assert grow(texts, *stop) == told


@pytest.mark.parametrize("texts", [["hello", "hell"], ["hello", "help me"], ["a b", ""]])
def test_what_was_told_cannot_be_taken_back(texts: list[str]) -> None:
    with pytest.raises(WorkerFailed, match="took back"):
        grow(texts)


def test_llavas_excuse_is_an_error() -> None:
    with pytest.raises(ContextLengthExceeded):
        grow([EXCEEDED[:20], EXCEEDED])


def split(*parts: bytes, max_frames: int = 10) -> list[Frame]:
    async def given() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    async def read_all() -> list[Frame]:
        return [frame async for frame in frames(given(), max_frames)]

    return asyncio.run(read_all())


def test_frames_are_found_however_the_bytes_are_cut() -> None:
    raw = '{"text": "é", "error_code": 0}\0{"text": "b", "error_code": 1}\0'.encode()
    for size in range(1, len(raw)):
        parts = [raw[start : start + size] for start in range(0, len(raw), size)]
        assert split(*parts) == [Frame("é"), Frame("b", 1)]


def test_a_frame_of_fastchat_has_usage_and_a_reason() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    fields = {"text": "a", "error_code": 0, "usage": usage, "finish_reason": None, "logprobs": None}
    assert split(json.dumps(fields).encode() + b"\0") == [
        Frame("a", 0, None, finishes=True, prompt_tokens=3, completion_tokens=4)
    ]
    fields |= {"usage": {"prompt_tokens": "3"}, "finish_reason": "stop"}
    assert split(json.dumps(fields).encode() + b"\0") == [Frame("a", 0, "stop", finishes=True)]


def test_empty_frames_only_say_that_the_worker_is_alive() -> None:
    assert split(b"\0", b"\0", b'{"text": "a"}\0\0') == [Frame("a")]


def test_half_characters_of_json_are_replaced() -> None:
    assert split(b'{"text": "a\\ud83d", "error_code": 0}\0') == [Frame("a\ufffd")]


@pytest.mark.parametrize(
    "raw",
    [b"[]\0", b"1\0", b"null\0", b"{}\0", b'{"text": null}\0', b"[" * 100_000 + b"\0", b"\0", b""],
)
def test_what_is_no_frame_is_an_error(raw: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        split(raw)


def test_a_stream_without_end_is_an_error() -> None:
    with pytest.raises(UpstreamFailed, match="more than 10 times"):
        split(*[b'{"text": "a"}\0'] * 12)
