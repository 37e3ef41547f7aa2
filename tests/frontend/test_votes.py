"""Answers of a real worker, votes through the one way in, and what the export tells of both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker import exports, keys, preferences
from broker.battles import Duel
from broker.messages import SamplingParams
from frontend.service import Service
from tests.asking import answer, say
from tests.stack import Stack, until


@pytest.fixture
def service(echo_stack: Stack) -> Iterator[Service]:
    made = Service(echo_stack.settings())
    yield made
    made.close()


def test_a_chat_its_vote_and_a_battle_are_exported(echo_stack: Stack, service: Service) -> None:
    long = service.submit("echo", say("one two three"), SamplingParams())
    short = service.submit("echo", say("one two three"), SamplingParams(max_tokens=1))
    assert [answer(service, each)[0] for each in (long, short)] == ["one two three", "one"]
    until(lambda: echo_stack.redis.xlen(keys.CHAT_LOG) == 2, "both chats are logged")
    service.feedback.vote(long.id, "upvote", "complete", comment="all of it", ip="10.0.0.7")
    service.feedback.battle(long.id, short.id, "left", ip="10.0.0.7")

    *chats, vote, battle = exports.llava(echo_stack.redis)
    told = {tuple(chat["state"]["messages"][-1]) for chat in chats}
    assert told == {("ASSISTANT", "one two three"), ("ASSISTANT", "one")}
    for chat in chats:
        assert chat["model"] == "echo"
        assert long.created_s - 1e-3 < chat["start"] <= chat["finish"] == chat["tstamp"]
    assert (vote["type"], vote["ip"]) == ("upvote", "10.0.0.7")
    assert vote["state"]["messages"] == [["USER", "one two three"], ["ASSISTANT", "one two three"]]
    assert (battle["type"], battle["models"]) == ("leftvote", ["echo", "echo"])
    (pair,) = preferences.pairs(echo_stack.redis)
    assert pair["jobs"] == [long.id, short.id]


def test_battles_are_counted(echo_stack: Stack, service: Service) -> None:
    echo_stack.echo_worker(**{"model-name": "other"})
    jobs = [service.submit(model, say("hello"), SamplingParams()) for model in ("echo", "other")]
    for job in jobs:
        answer(service, job)
    before = service.feedback.duels()
    service.feedback.battle(jobs[1].id, jobs[0].id, "left")
    assert ("echo", "other") not in before
    assert service.feedback.duels() == before | {("echo", "other"): Duel(second_won=1)}
