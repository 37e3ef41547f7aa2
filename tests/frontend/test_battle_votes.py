"""Votes on battles from several processes at once, over a real Valkey."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from broker import feedback, keys
from broker.errors import InvalidRequest
from broker.feedback import Outcome
from broker.side_by_side import Battle, new_battle
from frontend.service import Service
from frontend.ui.battle_votes import vote
from tests.broker.jobs import answered
from tests.stack import Stack

OUTCOMES: tuple[Outcome, ...] = ("left", "right", "tie", "bothbad")


@pytest.fixture
def battle(stack: Stack, service: Service) -> Battle:
    """A battle with two answers that nobody has voted on."""
    begun = new_battle("me", "ant", "bee", anonymous=True)
    begun = begun.with_each(lambda chat: chat.ask("which?"))
    for side, model in (("left", "ant"), ("right", "bee")):
        job_id = answered(stack.redis, f"I am {model}", model=model)
        begun = begun.send(side, service.jobs.read(job_id).request)  # type: ignore[arg-type]
    kept = service.battles.save(begun)
    return service.battles.read("me", kept.id)


def jobs_of(battle: Battle) -> list[str]:
    return [chat.last.job for chat in battle.conversations if chat.last]


def test_of_many_votes_at_once_from_several_processes_one_counts(
    stack: Stack, battle: Battle
) -> None:
    services = [Service(stack.settings()) for _ in range(4)]

    def cast(n: int) -> Battle:
        return vote(services[n % 4], battle, OUTCOMES[n % 3 if n % 4 else 3], "::1")

    with ThreadPoolExecutor(8) as pool:
        came = list(pool.map(cast, range(16)))
    (entry,) = feedback.tail(stack.redis, 20)
    assert (entry["anonymous"], entry["ip"]) == ("yes", "::1")
    assert {each.vote for each in came} == {entry["vote"]}
    for service in services:
        now = service.battles.read("me", battle.id)
        assert (now.vote, now.hidden, len(now.votes)) == (entry["vote"], False, 1)
        assert now.version == battle.version + 1, "a tab that saw the first has missed nothing"
        service.close()


def test_a_vote_that_was_logged_but_not_kept_counts_with_the_next_one(
    stack: Stack, service: Service, battle: Battle
) -> None:
    service.feedback.battle(*jobs_of(battle), "bothbad", anonymous=True)
    assert service.battles.read("me", battle.id).hidden
    now = vote(service, battle, "left")
    assert now.version == service.battles.read("me", battle.id).version
    assert (now.vote, now.hidden) == ("bothbad", False)
    assert len(feedback.tail(stack.redis, 10)) == 1


def test_answers_whose_jobs_are_gone_are_too_old(
    stack: Stack, service: Service, battle: Battle
) -> None:
    left, _ = jobs_of(battle)
    stack.redis.delete(keys.job(left))
    with pytest.raises(InvalidRequest, match=r"more than a day old .* Regenerate asks both again"):
        vote(service, battle, "left")
    assert service.battles.read("me", battle.id).hidden
    assert feedback.tail(stack.redis, 10) == []


def test_how_two_answers_compared_is_told(stack: Stack, service: Service, battle: Battle) -> None:
    left, right = jobs_of(battle)
    assert service.feedback.compared(left, right) is None
    vote(service, battle, "right")
    assert service.feedback.compared(left, right) == "right"
    assert service.feedback.compared(left, "another") is None
