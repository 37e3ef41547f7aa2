"""A reader that takes events more slowly than they come keeps little of them, and misses none."""

from __future__ import annotations

from itertools import islice

import pytest
import redis

from broker import channel, keys
from broker.errors import AnswerExpired
from broker.events import Delta, EventId
from broker.listener import BACKLOG
from broker.subscriber import PAGE, Subscriber
from tests.broker.jobs import claim, end, make_job
from tests.stack import until

EVENTS = 5 * BACKLOG


def write(client: redis.Redis, job_id: str, attempt: int) -> None:
    """An answer of so many events, in batches as a worker writes them."""
    for first in range(1, EVENTS, 64):
        numbers = range(first, min(first + 64, EVENTS))
        channel.append(
            client, [(job_id, Delta(EventId(attempt, n), f"{n} ", (n,))) for n in numbers]
        )
    channel.append(client, [(job_id, end(attempt, EVENTS))])


def waiting(subscriber: Subscriber, job_id: str) -> int:
    (inbox,) = subscriber._listener._inboxes[keys.live(job_id)]
    return inbox._waiting.qsize()


def test_what_waits_for_a_slow_reader_is_bounded_and_the_log_has_the_rest(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id = make_job(client)
    attempt = claim(client, job_id).attempt
    reader = (event for event in subscriber.follow(job_id) if event)
    told = list(islice(reader, 1))
    write(client, job_id, attempt)
    until(lambda: waiting(subscriber, job_id) == BACKLOG + 1, "the reader is sent to the log")
    for event in reader:
        told.append(event)
        assert waiting(subscriber, job_id) <= BACKLOG + 1
    assert [str(event.id) for event in told] == [f"1-{n}" for n in range(EVENTS + 1)]


def test_a_long_log_is_read_page_by_page(client: redis.Redis, subscriber: Subscriber) -> None:
    job_id = make_job(client)
    write(client, job_id, claim(client, job_id).attempt)
    before = client.info("commandstats")["cmdstat_xrange"]["calls"]
    told = [event for event in subscriber.follow(job_id) if event]
    assert [str(event.id) for event in told] == [f"1-{n}" for n in range(EVENTS + 1)]
    pages = client.info("commandstats")["cmdstat_xrange"]["calls"] - before
    assert pages == EVENTS // PAGE + 1


def test_a_reader_whose_log_expires_under_it_is_told(
    client: redis.Redis, subscriber: Subscriber
) -> None:
    job_id = make_job(client)
    write(client, job_id, claim(client, job_id).attempt)
    reader = (event for event in subscriber.follow(job_id) if event)
    next(reader)
    client.delete(keys.events(job_id))
    with pytest.raises(AnswerExpired, match="The rest of the answer is not kept any more"):
        list(reader)
