"""What becomes of a running job when Redis has forgotten its last events, its claim, or all."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError

from broker import channel, keys
from broker.connection import connect, redis_errors
from broker.errors import HeliographError, JobLost, RedisFull, RedisReadOnly, RedisUnavailable
from broker.events import Claim, Delta, Event, EventId
from broker.leases import Lease, leases_key
from broker.loss import Fate, restore
from broker.outage import Outage
from broker.queues import queue_key
from broker.subscriber import Subscriber
from tests.broker.jobs import claim, end, make_job
from tests.stack import embedded_valkey, free_port


def told(attempt: int, words: int) -> list[Event]:
    """The events of an attempt, its claim first."""
    deltas = (Delta(EventId(attempt, n), f"{n} ", (n,)) for n in range(1, words + 1))
    return [Claim(EventId(attempt, 0), "w"), *deltas]


def write(client: redis.Redis, job_id: str, events: list[Event], logged: int = 0) -> set[str]:
    return channel.append(client, [(job_id, e) for e in events], {job_id: logged}).cut


def forget(client: redis.Redis, job_id: str, after: EventId) -> None:
    """Have the log end earlier, as in a Redis that lost the rest: its last id is lower too."""
    kept = client.xrange(keys.events(job_id), max=str(after))
    client.delete(keys.events(job_id))
    for entry_id, fields in kept:  # type: ignore[union-attr]
        client.xadd(keys.events(job_id), fields, entry_id)


def restored(client: redis.Redis, job_id: str, events: list[Event], logged: int = 0) -> Fate:
    return restore(client, Lease(job_id, "x", 0.0), "m", "w", events, logged, ttl_s=6)


def ids(client: redis.Redis, job_id: str) -> list[str]:
    return [str(event.id) for event in channel.read_log(client, job_id)]


def test_a_log_that_lost_its_end_is_whole_again_under_the_same_ids(client: redis.Redis) -> None:
    job_id = make_job(client)
    events = told(claim(client, job_id).attempt, 5)
    assert write(client, job_id, events[1:5]) == set()
    forget(client, job_id, EventId(1, 2))
    assert write(client, job_id, events[5:]) == {job_id}
    assert ids(client, job_id) == ["1-0", "1-1", "1-2"]
    assert restored(client, job_id, events) is Fate.RESTORED
    assert channel.read_log(client, job_id) == events


def test_a_forgotten_claim_leaves_no_second_job_in_the_queue(client: redis.Redis) -> None:
    job_id = make_job(client)
    events = told(claim(client, job_id).attempt, 2)
    client.delete(keys.events(job_id))
    client.hdel(keys.job(job_id), "attempt", "worker")
    client.rpush(queue_key("m"), job_id)
    assert restored(client, job_id, events) is Fate.RESTORED
    assert client.lpos(queue_key("m"), job_id) is None
    assert client.zscore(leases_key("m"), f"{job_id}:x") is not None
    assert client.hmget(keys.job(job_id), "attempt", "state", "worker") == [b"1", b"running", b"w"]
    client.zrem(leases_key("m"), f"{job_id}:x")


def test_a_log_whose_lost_part_nobody_has_is_torn(client: redis.Redis) -> None:
    job_id = make_job(client)
    write(client, job_id, told(claim(client, job_id).attempt, 3)[1:])
    second = claim(client, job_id)
    assert (second.attempt, second.logged) == (2, 4)
    events = told(2, 3)
    forget(client, job_id, EventId(1, 1))
    assert write(client, job_id, events[1:], second.logged) == {job_id}
    assert restored(client, job_id, events, second.logged) is Fate.TORN
    assert ids(client, job_id) == ["1-0", "1-1"]


def test_a_job_that_another_worker_has_is_left_to_it(client: redis.Redis) -> None:
    job_id = make_job(client)
    events = told(claim(client, job_id).attempt, 3)
    claim(client, job_id, "other")
    assert restored(client, job_id, events) is Fate.FENCED
    assert client.hget(keys.job(job_id), "worker") == b"other"


def test_nothing_is_written_of_a_job_that_is_gone(client: redis.Redis) -> None:
    job_id = make_job(client)
    events = told(claim(client, job_id).attempt, 3)
    client.delete(keys.job(job_id), keys.events(job_id))
    assert write(client, job_id, [*events[1:3], end(1, 3)]) == {job_id}
    assert restored(client, job_id, events) is Fate.GONE
    assert client.exists(keys.job(job_id), keys.events(job_id)) == 0


def test_an_attempt_after_a_restart_has_a_number_that_never_was(tmp_path: Path) -> None:
    """The claim is forgotten, so counting on would draw 1 again."""
    port = free_port()
    with embedded_valkey(tmp_path, port) as url:
        first = connect(url)
        job_id = make_job(first)
        first.expire(keys.job(job_id), keys.JOB_TTL_S)
        assert claim(first, job_id).attempt == 1
        first.hdel(keys.job(job_id), "attempt")
        first.delete(keys.events(job_id))
        first.close()
    with embedded_valkey(tmp_path, port) as url:
        again = connect(url)
        attempt = claim(again, job_id).attempt
        assert 1 < attempt < 60_000
        assert attempt < claim(again, job_id).attempt < 60_000
        fresh = make_job(again)
        again.expire(keys.job(fresh), keys.JOB_TTL_S)
        assert claim(again, fresh).attempt == 1
        again.close()


def test_a_reader_is_told_when_its_last_event_was_forgotten_and_others_went_on(
    client: redis.Redis,
) -> None:
    job_id = make_job(client)
    events = told(claim(client, job_id).attempt, 3)
    write(client, job_id, events[1:])
    subscriber = Subscriber(client)
    reading = subscriber.follow(job_id, EventId(1, 2), tick_s=0.1)
    assert next(event for event in reading if event) == events[3]
    forget(client, job_id, EventId(1, 1))
    claim(client, job_id, "other")
    with pytest.raises(JobLost) as told_so:
        for _ in reading:
            pass
    assert (told_so.value.status, told_so.value.code) == (503, "job_lost")
    subscriber.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OutOfMemoryError("OOM"), RedisFull),
        (ReadOnlyError("READONLY"), RedisReadOnly),
        (redis.ConnectionError("Error 111 connecting to 10.1.1.1:6379"), RedisUnavailable),
    ],
)
def test_a_refusal_names_its_cause_and_no_address(
    error: redis.RedisError, kind: type[HeliographError]
) -> None:
    with pytest.raises(kind) as refused, redis_errors():
        raise error
    assert type(refused.value) is kind
    assert refused.value.status == 503
    assert "10.1.1.1" not in refused.value.message


def test_an_outage_is_told_when_it_begins_changes_and_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "broker.outage")
    outage = Outage()
    outage.end("heartbeats")
    for part in ("heartbeats", "answers", "heartbeats"):
        outage.begin(part, redis.ConnectionError("refused"))
    outage.begin("answers", ReadOnlyError("READONLY"))
    outage.end("heartbeats")
    outage.end("heartbeats")
    outage.end("answers")
    begun, changed, over = [record.message for record in caplog.records]
    assert begun.startswith("Redis does not answer; trying")
    assert changed.startswith("Redis takes no writes since it is a replica")
    assert over == "Redis answers again after 0.0 s"
