"""Readers who were there before a job began read no log; channels without readers are left."""

from __future__ import annotations

import time

import pytest
import redis

from broker import channel, keys, listener
from broker.connection import connect
from broker.errors import QueueFull
from broker.events import Delta, EventId
from broker.subscriber import Subscriber
from tests.broker.jobs import claim, end, make_job
from tests.stack import free_port, until


def hears(client: redis.Redis, job_id: str) -> bool:
    """Whether anybody is subscribed to a job's channel."""
    return bool(client.pubsub_numsub(keys.live(job_id))[0][1])


def log_reads(client: redis.Redis) -> int:
    """How often anybody has read a log of this server."""
    calls: int = client.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"]
    return calls


def answer(client: redis.Redis, job_id: str) -> list[str]:
    """Answer a job; return the ids of what was told."""
    attempt = claim(client, job_id).attempt
    channel.append(client, [(job_id, Delta(EventId(attempt, 1), "a", (1,)))])
    channel.append(client, [(job_id, end(attempt, 2))])
    return [f"{attempt}-{n}" for n in range(3)]


def expect(subscriber: Subscriber, job_id: str) -> None:
    """Hear a job as if it were submitted now."""
    with subscriber.expect(job_id) as heard:
        heard()


def read(subscriber: Subscriber, job_id: str) -> list[str]:
    return [str(event.id) for event in subscriber.follow(job_id, tick_s=0.1) if event]


def test_who_expects_a_job_needs_no_log(client: redis.Redis, subscriber: Subscriber) -> None:
    job_id = make_job(client)
    expect(subscriber, job_id)
    told, before = answer(client, job_id), log_reads(client)
    assert read(subscriber, job_id) == told
    assert log_reads(client) == before
    assert read(subscriber, job_id) == told  # once more, by somebody who comes late
    assert log_reads(client) == before + 1


def test_what_is_told_while_the_connection_is_away_comes_from_the_log(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id = make_job(client)
    expect(subscriber, job_id)
    client.client_kill_filter(_type="pubsub")
    told = answer(client, job_id)
    assert read(subscriber, job_id) == told


def test_a_job_that_nobody_comes_for_is_not_expected_for_ever(
    client: redis.Redis, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "EXPECT_S", 0.0)
    forgotten, next_one = make_job(client), make_job(client)
    expect(subscriber, forgotten)
    assert hears(client, forgotten)
    expect(subscriber, next_one)
    assert not hears(client, forgotten)
    told = answer(client, forgotten)
    assert read(subscriber, forgotten) == told


def test_a_job_that_could_not_be_submitted_is_not_heard_any_more(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    refused, next_one = make_job(client), make_job(client)
    with pytest.raises(QueueFull), subscriber.expect(refused) as heard:
        heard()
        assert hears(client, refused)
        raise QueueFull("no room")
    expect(subscriber, next_one)
    assert (hears(client, refused), hears(client, next_one)) == (False, True)


def test_an_ended_job_is_left_on_the_way_to_another(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    first, second = make_job(client), make_job(client)
    expect(subscriber, first)
    answer(client, first)
    read(subscriber, first)
    expect(subscriber, second)
    assert (hears(client, first), hears(client, second)) == (False, True)


def test_a_job_that_goes_on_without_its_reader_is_left(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id = make_job(client)
    attempt = claim(client, job_id).attempt
    live = subscriber.follow(job_id)
    next(live)
    live.close()
    channel.append(client, [(job_id, Delta(EventId(attempt, 1), "a", (1,)))])
    until(lambda: not hears(client, job_id), "it is left")
    channel.append(client, [(job_id, end(attempt, 2))])
    assert read(subscriber, job_id) == [f"{attempt}-{n}" for n in range(3)]


def test_a_job_that_was_just_left_is_heard_again(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id = make_job(client)
    attempt = claim(client, job_id).attempt
    for n in range(1, 20):
        live = subscriber.follow(job_id, EventId(attempt, n - 1), tick_s=0.1)
        assert next(live) is None
        channel.append(client, [(job_id, Delta(EventId(attempt, n), "a", (1,)))])
        assert next(event for event in live if event).id == EventId(attempt, n)
        live.close()


def test_a_job_that_could_not_be_heard_in_time_is_read_and_left_like_any_other(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id, other = make_job(client), make_job(client)
    client.client_pause(1200)  # the subscription is not confirmed within the time that it has
    begin_s = time.monotonic()
    expect(subscriber, job_id)
    assert time.monotonic() - begin_s < 2 * listener.BEFOREHAND_S
    told = answer(client, job_id)
    assert read(subscriber, job_id) == told
    expect(subscriber, other)
    assert not hears(client, job_id)


def test_nobody_waits_to_be_heard_while_redis_is_known_to_be_away() -> None:
    nowhere = Subscriber(connect(f"redis://127.0.0.1:{free_port()}/0", retry=False))
    expect(nowhere, "first")  # finds it out
    begin_s = time.monotonic()
    for place in range(20):
        expect(nowhere, f"later {place}")
    assert time.monotonic() - begin_s < 4 * listener.BEFOREHAND_S
    nowhere.close()
