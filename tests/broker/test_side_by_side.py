"""Battles on both servers: two answers in one record, two writers, owners, limits, lifetimes."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import redis

from broker import channel, chats, images, keys, queues
from broker.chats import Battles, Chats
from broker.errors import ChatChanged, ChatNotFound, ChatTooLarge, WorkerFailed
from broker.events import EventId, Failed
from broker.messages import GenerateRequest
from broker.side_by_side import SIDES, Battle, Side, new_battle
from tests.broker import jobs
from tests.broker.jobs import end
from tests.broker.test_chats import MONTH, answer, assert_kept_a_month, ttl


@pytest.fixture
def store(once: redis.Redis) -> Battles:
    return Battles(once)


@pytest.fixture
def send(store: Battles, once: redis.Redis) -> Callable[[Battle, Side], Battle]:
    """Submits the job that answers a side; gives the battle as it is kept."""

    def submit(battle: Battle, side: Side) -> Battle:
        messages, sent = battle.chat(side).messages, partial(battle.send, side)
        return jobs.send(once, store, f"{side}-{battle.owner}", messages, sent)

    return submit


def asked(owner: str, text: str = "which?", *pictures: str) -> Battle:
    battle = new_battle(owner, "a", "b", anonymous=True)
    return battle.with_each(lambda chat: chat.ask(text, pictures))


def jobs_of(battle: Battle) -> list[str]:
    return [each.job for each in battle.running]


def texts(battle: Battle) -> list[str]:
    return [chat.last.text for chat in battle.conversations if chat.last]


def test_a_battle_is_read_back_as_it_was_kept_and_found_by_its_owner_only(
    store: Battles, once: redis.Redis, owner: str
) -> None:
    kept = store.save(asked(owner, "Which is it?"))
    assert store.read(owner, kept.id) == kept
    assert [(each.id, each.title) for each in store.entries(owner)] == [(kept.id, "Which is it?")]
    with pytest.raises(ChatNotFound, match=r"This battle is not here .* another browser"):
        store.read("somebody", kept.id)
    with pytest.raises(ChatNotFound):
        Chats(once).read(owner, kept.id)
    assert Chats(once).entries(owner) == []


def test_both_answers_that_nobody_awaited_are_taken_in_when_both_have_ended(
    store: Battles, owner: str, send: Callable[[Battle, Side], Battle], client: redis.Redis
) -> None:
    battle = send(send(asked(owner), "left"), "right")
    assert battle.version == 2
    left, right = jobs_of(battle)
    answer(client, left, "Good ")
    answer(client, right, "Bad ")
    channel.append(client, [(left, end(1, 2))])
    half = store.read(owner, battle.id)
    assert (half.version, jobs_of(half), texts(half)) == (2, [right], ["Good .", "Bad "])
    channel.append(client, [(right, end(1, 2))])
    for job_id in (left, right):
        assert ttl(client, keys.events(job_id)) in MONTH
        client.delete(keys.job(job_id))  # it expires long before
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda _: store.read(owner, battle.id), range(16)))
    assert {each.version for each in read} == {3}
    assert texts(read[0]) == ["Good .", "Bad ."] and not read[0].running
    for job_id in (left, right):
        assert 0 < ttl(client, keys.events(job_id)) <= keys.ENDED_EVENTS_TTL_S
        client.delete(keys.events(job_id))
    assert store.read(owner, battle.id) == read[0]


def test_one_side_may_fail_while_the_other_goes_on(
    store: Battles, owner: str, send: Callable[[Battle, Side], Battle], client: redis.Redis
) -> None:
    battle = send(send(asked(owner), "left"), "right")
    left, right = jobs_of(battle)
    answer(client, left, "Well")
    answer(client, right, "I ")
    error = WorkerFailed("The engine failed.").body
    channel.append(client, [(left, Failed(EventId(1, 2), error))])
    store.change(owner, battle.id, lambda now: now.fail(left, error))
    channel.append(client, [(right, end(1, 2))])
    ended = store.read(owner, battle.id)
    assert texts(ended) == ["Well", "I ."]
    assert [chat.last.error for chat in ended.conversations if chat.last] == [error, None]


def test_of_many_questions_at_once_one_is_put_to_both(
    store: Battles, owner: str, send: Callable[[Battle, Side], Battle], client: redis.Redis
) -> None:
    battle = store.save(new_battle(owner, "a", "b", anonymous=True))

    def ask(n: int) -> bool:
        question = battle.with_each(lambda chat: chat.ask(f"question {n}"))
        try:
            sent = send(question, "left")
        except ChatChanged:
            return False
        send(sent, "right")
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(ask, range(16)))
    assert won.count(True) == 1
    now = store.read(owner, battle.id)
    questions = [turn.question.text for chat in now.conversations for turn in chat.turns]
    assert questions == [f"question {won.index(True)}"] * 2
    for side in SIDES:
        assert client.llen(queues.queue_key(f"{side}-{owner}")) == 1


def test_votes_at_once_are_one(store: Battles, owner: str) -> None:
    battle = asked(owner)
    job = GenerateRequest(id="left-job", model="a", messages=(), created_s=0.0)
    battle = store.save(battle.send("left", job).fail("left-job", WorkerFailed("x").body))

    def vote(n: int) -> Battle:
        outcome = ("left", "right", "tie", "bothbad")[n % 4]
        return store.change(owner, battle.id, lambda now: now.with_vote("left-job", outcome))  # type: ignore[arg-type]

    with ThreadPoolExecutor(4) as pool:
        voted = list(pool.map(vote, range(8)))
    now = store.read(owner, battle.id)
    assert {each.vote for each in voted} == {now.vote}
    assert (len(now.votes), now.hidden) == (1, False)


def test_a_deleted_battle_does_not_come_back(
    store: Battles, owner: str, send: Callable[[Battle, Side], Battle], client: redis.Redis
) -> None:
    battle = send(send(asked(owner), "left"), "right")
    store.delete(battle)
    with pytest.raises(ChatNotFound, match="This battle was deleted"):
        store.save(battle)
    assert store.entries(owner) == []
    assert not client.exists(keys.battle(battle.id))
    for job_id in jobs_of(battle):
        assert client.hget(keys.job(job_id), "keep_s") is None


def test_every_key_of_a_battle_lives_a_month_from_the_last_change(
    store: Battles, owner: str, client: redis.Redis
) -> None:
    sha256 = images.put(client, uuid.uuid4().bytes)
    kept = store.save(asked(owner, "Look", sha256))
    names = (keys.battle(kept.id), keys.battles(owner), keys.image(sha256))
    assert_kept_a_month(client, names, lambda: store.save(kept.with_title("Again")))


def test_battles_are_bounded_in_number_and_bytes(
    store: Battles, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ChatTooLarge, match=r"This battle is over 2 MiB, which is the limit."):
        store.save(asked(owner, "x" * (chats.MAX_BYTES // 2)))
    monkeypatch.setattr(chats, "MAX_CHATS", 1)
    kept = store.save(asked(owner))
    with pytest.raises(ChatTooLarge, match=r"You have 1 battles, which is the limit. Delete one"):
        store.save(asked(owner))
    assert store.save(kept.with_title("old ones go on")).version == 2
