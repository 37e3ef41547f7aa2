"""The token channel on both servers: order, gaps, fencing, resume."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis

from broker import channel, keys
from broker import subscriber as reading
from broker.connection import connect
from broker.errors import ErrorBody, JobNotFound
from broker.events import (
    Claim,
    Delta,
    End,
    Entry,
    Event,
    EventId,
    Failed,
    Likely,
    SeenImage,
    TokenLogprob,
    Usage,
    decode_event,
    encode_event,
)
from broker.subscriber import Events, Subscriber
from tests.broker.jobs import claim, end, make_job

LOGPROBS = (
    TokenLogprob(b"\xc3", -0.25, (Likely(b"\xc3", -0.25), Likely(b' "\n', -9999.0))),
    TokenLogprob(b"\xa9", 0.0),
)


SECONDS = "0.1000 0.2000 0.3000"
SEEN = SeenImage(640, 480, 5, 448, 448, 1282)


@pytest.mark.parametrize(
    "event",
    [
        Claim(EventId(2, 0), "worker-1"),
        Delta(EventId(1, 3), "né\n", (5, 6)),
        Delta(EventId(1, 4), "", ()),
        Delta(EventId(1, 4), "\xe9", (5, 6), LOGPROBS),
        end(1, 5),
        replace(end(1, 5), logprobs=LOGPROBS[:1]),
        replace(end(1, 5), usage=Usage(97, 5, 7, (SEEN, SEEN))),
        Failed(EventId(1, 1), ErrorBody(400, "invalid_request_error", "x", "why", None)),
    ],
)
def test_every_event_reads_back_as_it_was_written(event: Event) -> None:
    assert decode_event(event.id, encode_event(event)) == event


def test_an_end_without_pictures_is_written_and_read_as_ever() -> None:
    fields = encode_event(end(1, 5))
    assert fields == {"k": "end", "d": ".", "t": "9", "r": "stop", "u": "3 5 0", "s": SECONDS}
    told = decode_event(EventId(1, 5), fields | {"u": "3 5"})
    assert told == end(1, 5)


def test_logprobs_are_left_out_of_an_event_that_has_none() -> None:
    assert encode_event(Delta(EventId(1, 3), "a", (5,))) == {"k": "delta", "d": "a", "t": "5"}
    assert "l" not in encode_event(end(1, 5))


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        decode_event(EventId(1, 1), {"k": "surprise"})
    with pytest.raises(ValueError, match="lacks field"):
        decode_event(EventId(1, 1), {"k": "delta"})
    with pytest.raises(ValueError, match="<attempt>-<n>"):
        EventId.parse("17")


def test_a_reader_gets_every_event_in_order_while_it_is_written(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id = make_job(client)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [event for event in subscriber.follow(job_id) if event])
        attempt = claim(client, job_id).attempt
        for n in range(1, 200):
            channel.append(client, [(job_id, Delta(EventId(attempt, n), f"{n} ", (n,)))])
        channel.append(client, [(job_id, end(attempt, 200))])
        events = reading.result(timeout=20)
    assert [str(event.id) for event in events] == [f"1-{n}" for n in range(201)]
    assert isinstance(events[-1], End)


ODD = (
    "",
    "\0",
    "quotes \" ' \\ and \\u0041",
    "line\u2028 and \x85 breaks\r\n",
    "emoji \U0001f642\u200d\U0001f525, \ufeff \ufffe \U0010ffff",
    "العربية 漢字 e\u0301",
    "[1,2] {} null",
    "a lone half of a pair: \ud800, \udfff",
)


@pytest.mark.parametrize("text", ODD)
def test_any_text_is_read_as_it_was_written(
    text: str, client: redis.Redis, subscriber: Subscriber
) -> None:
    expected = text.encode("utf-8", "replace").decode()  # halves of pairs are no text
    job_id = make_job(client)
    attempt = claim(client, job_id).attempt
    live = subscriber.follow(job_id)
    assert next(live) == Claim(EventId(1, 0), "w")
    failed = Failed(EventId(attempt, 2), ErrorBody(500, "server_error", "x", text, None))
    channel.append(client, [(job_id, Delta(EventId(attempt, 1), text, (1,))), (job_id, failed)])
    told = [event for event in live if event]
    assert told == channel.read_log(client, job_id, EventId(1, 0))
    assert isinstance(told[0], Delta)
    assert told[0].text == expected
    assert isinstance(told[1], Failed)
    assert told[1].error.message == expected


@pytest.mark.parametrize(
    "message",
    [b"5", b"\xff", b"{}", b'["1-1", 7]', b'["1", {}]', b'[[], {"k": "delta"}]', b"[" * 9999],
)
def test_a_message_that_is_no_event_only_sends_readers_to_the_log(
    message: bytes,
    client: redis.Redis,
    subscriber: Subscriber,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(reading, "RESYNC_S", 60.0)
    job_id = make_job(client)
    events = subscriber.follow(job_id)
    attempt = claim(client, job_id).attempt
    assert next(events) == Claim(EventId(1, 0), "w")
    client.xadd(
        keys.events(job_id), {"m": Entry.of(Delta(EventId(1, 1), "a", (1,))).message}, "1-1"
    )
    client.publish(keys.live(job_id), message)
    assert next(event for event in events if event) == Delta(EventId(1, 1), "a", (1,))
    channel.append(client, [(job_id, end(attempt, 2))])
    assert [event for event in events if event] == [end(1, 2)]
    assert keys.live(job_id) in caplog.text


def test_a_reader_that_comes_late_replays_the_log(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id = make_job(client)
    attempt = claim(client, job_id).attempt
    channel.append(client, [(job_id, Delta(EventId(attempt, 1), "a", (1,)))])
    channel.append(client, [(job_id, end(attempt, 2))])
    assert [str(event.id) for event in subscriber.follow(job_id) if event] == ["1-0", "1-1", "1-2"]
    resumed = [event for event in subscriber.follow(job_id, EventId(1, 1)) if event]
    assert [str(event.id) for event in resumed] == ["1-2"]


def followed(client: redis.Redis, subscriber: Subscriber) -> tuple[str, int, Events]:
    """A job that somebody reads, its attempt, and what is read after its claim."""
    job_id = make_job(client)
    events = subscriber.follow(job_id, tick_s=0.1)
    attempt = claim(client, job_id).attempt
    assert isinstance(next(event for event in events if event), Claim)
    return job_id, attempt, events


def test_a_log_of_the_version_before_is_read(client: redis.Redis) -> None:
    job_id = make_job(client)
    attempt = claim(client, job_id).attempt
    told = Delta(EventId(attempt, 1), "one ", (7, 8))
    client.xadd(keys.events(job_id), encode_event(told), "1-1")  # type: ignore[arg-type]
    assert channel.read_log(client, job_id)[1:] == [told]
    again = claim(client, job_id)
    assert (again.text, again.token_ids) == ("one ", (7, 8))


def test_a_message_lost_by_pubsub_is_filled_from_the_log(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id, attempt, events = followed(client, subscriber)
    lost = Entry.of(Delta(EventId(attempt, 1), "lost", (1,)))
    client.xadd(keys.events(job_id), {"m": lost.message}, id="1-1")
    channel.append(client, [(job_id, end(attempt, 2))])
    assert [str(event.id) for event in events if event] == ["1-1", "1-2"]


def test_a_reader_survives_its_connection_being_killed(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id, attempt, events = followed(client, subscriber)
    killed = client.client_kill_filter(_type="pubsub")
    assert killed >= 1
    channel.append(client, [(job_id, Delta(EventId(attempt, 1), "a", (1,)))])
    channel.append(client, [(job_id, end(attempt, 2))])
    assert [str(event.id) for event in events if event] == ["1-1", "1-2"]


def test_two_readers_of_one_job_see_the_same(client: redis.Redis, subscriber: Subscriber) -> None:
    job_id = make_job(client)
    with ThreadPoolExecutor(2) as pool:
        readings = [
            pool.submit(lambda: [event for event in subscriber.follow(job_id) if event])
            for _ in range(2)
        ]
        attempt = claim(client, job_id).attempt
        channel.append(client, [(job_id, Delta(EventId(attempt, 1), "a", (1,)))])
        channel.append(client, [(job_id, end(attempt, 2))])
        first, second = (reading.result(timeout=20) for reading in readings)
    assert first == second
    assert len(first) == 3


def test_an_append_repeated_after_a_lost_reply_lands_once(client: redis.Redis) -> None:
    job_id = make_job(client)
    attempt = claim(client, job_id).attempt
    batch = [(job_id, Delta(EventId(attempt, n), str(n), (n,))) for n in (1, 2)]
    assert channel.append(client, batch) == (set(), set())
    assert channel.append(client, batch) == (set(), set())
    assert [str(event.id) for event in channel.read_log(client, job_id)] == ["1-0", "1-1", "1-2"]


def test_a_later_claim_fences_the_earlier_worker(client: redis.Redis) -> None:
    job_id, other = make_job(client), make_job(client)
    first = claim(client, job_id, "first")
    elsewhere = claim(client, other, "first")
    channel.append(client, [(job_id, Delta(EventId(first.attempt, 1), "one ", (7, 8)))])
    second = claim(client, job_id, "second")
    assert (second.attempt, second.token_ids, second.text) == (2, (7, 8), "one ")
    appended = channel.append(
        client,
        [
            (job_id, Delta(EventId(first.attempt, 2), "zombie", (9,))),
            (other, Delta(EventId(elsewhere.attempt, 1), "fine", (1,))),
        ],
    )
    assert appended == ({job_id}, set())
    texts = [e.text for e in channel.read_log(client, job_id) if isinstance(e, Delta)]
    assert texts == ["one "]


def test_a_reader_goes_on_over_a_change_of_worker(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id = make_job(client)
    events = subscriber.follow(job_id, tick_s=0.1)
    first = claim(client, job_id, "first")
    channel.append(client, [(job_id, Delta(EventId(first.attempt, 1), "one ", (1,)))])
    second = claim(client, job_id, "second")
    channel.append(client, [(job_id, Delta(EventId(second.attempt, 1), "two", (2,)))])
    channel.append(client, [(job_id, end(second.attempt, 2))])
    found = [event for event in events if event]
    assert [str(event.id) for event in found] == ["1-0", "1-1", "2-0", "2-1", "2-2"]


def test_an_ended_job_cannot_be_failed_afterwards(client: redis.Redis) -> None:
    job_id = make_job(client)
    attempt = claim(client, job_id).attempt
    channel.append(client, [(job_id, end(attempt, 1))])
    assert claim(client, job_id).ended
    channel.fail(client, job_id, "janitor", ErrorBody(500, "t", "c", "m"))
    assert not any(isinstance(event, Failed) for event in channel.read_log(client, job_id))


def test_following_an_unknown_job_says_so(subscriber: Subscriber) -> None:
    with pytest.raises(JobNotFound, match="unknown"):
        next(iter(subscriber.follow("no-such-job")))


def test_a_job_that_vanishes_with_its_redis_data_ends_its_readers(
    client: redis.Redis, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RESYNC_S", 0.2)
    job_id = make_job(client)
    events = subscriber.follow(job_id, tick_s=0.1)
    claim(client, job_id)
    assert isinstance(next(event for event in events if event), Claim)
    client.delete(keys.job(job_id), keys.events(job_id))
    with pytest.raises(JobNotFound):
        for _ in events:
            pass


def test_one_process_holds_one_pubsub_connection(server_url: str) -> None:
    own = connect(server_url)
    name = f"one-{uuid.uuid4().hex}"
    own.connection_pool.connection_kwargs["client_name"] = name
    subscriber = Subscriber(own)
    jobs = [make_job(own) for _ in range(20)]
    streams = [subscriber.follow(job_id, tick_s=0.05) for job_id in jobs]
    for stream in streams:
        assert next(stream) is None
    mine = [c for c in own.client_list(_type="pubsub") if c["name"] == name]
    assert len(mine) == 1
    assert int(mine[0]["sub"]) == 21
    subscriber.close()
    own.close()
