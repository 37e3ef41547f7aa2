"""Tokens of a text are counted by a live worker of its model, in real processes."""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import transformers

import workers.demo
from broker import counts, keys
from broker.counts import count_tokens
from broker.errors import NoLiveWorker, RequestTooLarge
from broker.messages import ChatMessage, SamplingParams, TextPart
from frontend.service import Service
from tests.stack import Stack, until

DEMO = Path(workers.demo.__file__).with_name("model")


def hears(stack: Stack, workers: int = 1) -> None:
    """A worker is ready a moment before it hears what is said to all."""
    until(lambda: stack.redis.publish(keys.CONTROL, "0") == workers, "the workers listen")


def left(stack: Stack) -> list[bytes]:
    found: Any = stack.redis.keys("helio:count:*")
    return list(found)


def test_an_echo_worker_counts_words_and_leaves_nothing_behind(echo_stack: Stack) -> None:
    hears(echo_stack)
    assert count_tokens(echo_stack.redis, "echo", "one two\nthree") == 3
    assert count_tokens(echo_stack.redis, "echo", "") == 0
    assert left(echo_stack) == []


def test_the_demo_worker_counts_as_its_tokenizer_does(demo_stack: Stack) -> None:
    hears(demo_stack)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(DEMO)
    texts = [
        "How many shapes are there?",
        "<|im_start|>user\nWhat colour is it?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n<IMG_CONTEXT>\nGrüße 😀 <|im_end|>",
        "many words " * 20_000,
    ]
    for text in texts:
        expected = len(tokenizer(text).input_ids)
        assert count_tokens(demo_stack.redis, "heliograph-demo", text) == expected


def test_only_workers_of_the_model_answer_and_an_unknown_model_is_told_in_time(
    echo_stack: Stack,
) -> None:
    hears(echo_stack)
    started = time.monotonic()
    with pytest.raises(NoLiveWorker, match=r"No worker of model 'other' counted .* within 0\.3 s"):
        count_tokens(echo_stack.redis, "other", "one", timeout_s=0.3)
    assert 0.3 <= time.monotonic() - started < 1.5


def test_a_longer_wait_than_a_sockets_is_no_error(echo_stack: Stack) -> None:
    with pytest.raises(NoLiveWorker):
        count_tokens(echo_stack.redis, "other", "one", timeout_s=2.2)


def test_too_long_a_text_is_refused_with_the_limit(client: redis.Redis) -> None:
    with pytest.raises(RequestTooLarge, match=r"has 500001 characters; .* 500000 at most"):
        count_tokens(client, "echo", "a" * 500_001)


def test_a_text_is_taken_by_one_worker_only_and_expires(client: redis.Redis) -> None:
    client.set(keys.count_text("id"), "Grüße", ex=keys.COUNT_TTL_S)
    assert counts.take(client, "id") == "Grüße"
    assert counts.take(client, "id") is None
    counts.answer(client, "id", 7)
    assert client.lpop(keys.count("id")) == b"7"
    counts.answer(client, "id", 7)
    remaining: Any = client.ttl(keys.count("id"))
    assert 0 < remaining <= 10
    client.delete(keys.count("id"))


def test_a_worker_counts_while_it_generates_and_in_place_of_one_that_is_stopped(
    stack: Stack,
) -> None:
    first, second = (stack.echo_worker("tokens_per_s=20&tokens=400") for _ in range(2))
    hears(stack, 2)
    service = Service(stack.settings())
    asked = ChatMessage(role="user", content=(TextPart(text="word"),))
    request = service.submit("echo", [asked], SamplingParams())
    events = service.follow(request)
    until(lambda: next(events), "the answer has begun")
    with ThreadPoolExecutor(8) as pool:
        texts = [" ".join("a" * n) for n in range(40)]
        told = pool.map(lambda text: count_tokens(stack.redis, "echo", text), texts)
        assert list(told) == list(range(40))
    first.signal(signal.SIGSTOP)
    assert count_tokens(stack.redis, "echo", "one two") == 2
    first.signal(signal.SIGCONT)
    second.signal(signal.SIGKILL)
    until(lambda: second.status is not None, "the second is gone")
    assert count_tokens(stack.redis, "echo", "one two three") == 3
    assert service.jobs.cancel(request.id)
    service.close()


def test_a_count_without_a_text_is_survived(echo_stack: Stack) -> None:
    hears(echo_stack)
    for rubbish in ({"count": 5}, {"count": None, "model": "echo"}, {"count": "x", "model": []}):
        echo_stack.redis.publish(keys.CONTROL, json.dumps(rubbish))
    assert count_tokens(echo_stack.redis, "echo", "one") == 1
