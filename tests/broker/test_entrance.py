"""Places that are taken ahead: they spare a question, and the bound of the queue stays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from typing import Any

import pytest
import redis

from broker import entrance, keys
from broker.submission import Submitter
from tests.broker.jobs import is_accepted, make_request

MOST = 128
"""So many that two places are taken ahead."""


@pytest.fixture
def submitter(once: redis.Redis) -> Submitter:
    return Submitter(once, max_queue_length=MOST)


@pytest.fixture
def asked(once: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Notes each question for a place, apart from those in transactions."""
    questions: list[object] = []
    ask = once.eval

    def note(*arguments: Any) -> Any:
        questions.append(arguments)
        return ask(*arguments)

    monkeypatch.setattr(once, "eval", note)
    return questions


def fill(submitter: Submitter, model: str) -> int:
    """Submit until there is no room; return how many were accepted."""
    tries = (is_accepted(submitter, model) for _ in range(MOST + 1))
    return sum(takewhile(bool, tries))


def test_who_comes_after_somebody_need_not_ask(
    client: redis.Redis, submitter: Submitter, model: str, asked: list[object]
) -> None:
    for _ in range(5):
        submitter.submit(make_request(model))
    assert len(asked) == 1
    assert client.llen(f"rq:queue:{model}") == 5
    assert client.zcard(keys.coming(model)) == 1
    assert 0 < client.ttl(keys.coming(model)) <= entrance.COMING_S


def test_a_place_that_was_taken_too_long_ago_is_not_given_away(
    submitter: Submitter, model: str, asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "AHEAD_S", 0.0)
    for _ in range(3):
        submitter.submit(make_request(model))
    assert len(asked) == 3


def test_the_fuller_half_of_a_queue_is_not_taken_ahead(
    client: redis.Redis, submitter: Submitter, model: str
) -> None:
    assert fill(submitter, model) == client.llen(f"rq:queue:{model}") == MOST
    assert client.exists(keys.coming(model)) == 0


def test_the_bound_stays_for_two_processes_and_for_many_who_come_at_once(
    client: redis.Redis, once: redis.Redis, submitter: Submitter, model: str
) -> None:
    other = Submitter(once, max_queue_length=MOST)
    other.submit(make_request(model))  # and has a place that it does not use

    with ThreadPoolExecutor(30) as pool:
        accepted = sum(pool.map(lambda _: is_accepted(submitter, model), range(2 * MOST)))
    # One of them may have taken a place ahead when all the others had come.
    assert accepted + fill(submitter, model) == MOST - 2
    assert fill(other, model) == 1
    assert client.llen(f"rq:queue:{model}") == MOST
