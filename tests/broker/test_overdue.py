"""Jobs that were not started in time: ended once, by Redis's clock, and never started late."""

from __future__ import annotations

import pytest
import redis
from rq.job import Job

from broker import cancellation, channel, jobs, keys, overdue, patience, queues
from broker.errors import QueueFull
from broker.events import Claim, End, EventId, Failed
from broker.patience import Patience
from broker.submission import Submitter
from tests.broker.jobs import make_request, now_s
from tests.broker.test_registry import announce


@pytest.fixture
def job_id(submitter: Submitter, model: str) -> str:
    return submitter.submit(make_request(model), may_wait=Patience(start_within_s=90))


def let_time_pass(client: redis.Redis, job_id: str) -> None:
    """Make it the time at which the job was to be started."""
    by = now_s(client) - 0.01
    client.hset(keys.job(job_id), "start_by", by)
    client.zadd(keys.START_BY, {job_id: by})


def claim(client: redis.Redis, job_id: str) -> channel.Claimed:
    pipe = client.pipeline(transaction=False)
    channel.claim(pipe, job_id, "worker")
    claimed = channel.read_claim(pipe.execute()[0])
    assert claimed is not None
    return claimed


def test_a_job_waits_for_as_long_as_it_was_given(
    client: redis.Redis, submitter: Submitter, model: str
) -> None:
    before_s = now_s(client)
    job_id = submitter.submit(make_request(model), may_wait=Patience(90.5, 7))
    by = client.zscore(keys.START_BY, job_id)
    assert isinstance(by, float)
    assert before_s + 90.499 <= by <= now_s(client) + 90.501
    assert client.hget(keys.job(job_id), "start_by") == f"{by:.3f}".encode()
    assert patience.without_worker_s(client, job_id) == 7
    assert overdue.end(client) == []
    assert jobs.read(client, job_id).position == 0


def test_a_job_without_a_limit_has_no_deadline(
    client: redis.Redis, submitter: Submitter, model: str
) -> None:
    job_id = submitter.submit(make_request(model))
    assert client.zscore(keys.START_BY, job_id) is None
    assert patience.without_worker_s(client, job_id) == 0


def test_an_overdue_job_ends_with_an_error_and_leaves_nothing(
    client: redis.Redis, job_id: str, model: str
) -> None:
    let_time_pass(client, job_id)
    assert overdue.end(client) == [job_id]
    assert overdue.end(client) == []
    (event,) = channel.read_log(client, job_id)
    assert isinstance(event, Failed)
    assert event.id == EventId(1, 0)
    assert (event.error.status, event.error.code) == (503, "queue_timeout")
    assert event.error.message == (
        f"No worker took job {job_id} within 90 s, so it was given up. "
        "Try again later, or allow more time with queue_timeout."
    )
    assert event.error.retry_after_s is None
    assert jobs.read(client, job_id).state == "failed"
    assert client.llen(queues.queue_key(model)) == 0
    assert not client.exists(Job.key_for(job_id))
    assert client.zscore(keys.START_BY, job_id) is None


def test_its_error_says_when_those_who_wait_will_be_served(
    client: redis.Redis, submitter: Submitter, job_id: str, model: str
) -> None:
    announce(client, model, slots=1, job_s=2.5)
    submitter.submit(make_request(model))
    let_time_pass(client, job_id)
    assert overdue.end(client) == [job_id]
    (event,) = channel.read_log(client, job_id)
    # Two waited and one more comes: three times 2.5 s.
    assert isinstance(event, Failed) and event.error.retry_after_s == 8


def test_a_job_that_was_started_in_time_may_take_as_long_as_it_likes(
    client: redis.Redis, job_id: str, model: str
) -> None:
    client.lrem(queues.queue_key(model), 1, job_id)
    assert claim(client, job_id).missed_s == 0
    assert client.zscore(keys.START_BY, job_id) is None
    client.zadd(keys.START_BY, {job_id: 1.0})  # as somebody may have read it a moment before
    client.lpush(queues.queue_key(model), job_id)  # its worker died
    assert overdue.end(client) == []
    assert jobs.read(client, job_id).position == 0
    assert claim(client, job_id).missed_s == 0
    assert client.zscore(keys.START_BY, job_id) is None


def test_a_job_that_is_claimed_too_late_is_too_late_for_every_worker(
    client: redis.Redis, job_id: str, model: str
) -> None:
    client.lrem(queues.queue_key(model), 1, job_id)
    let_time_pass(client, job_id)
    assert overdue.end(client) == [], "it is on its way to a worker"
    assert claim(client, job_id).missed_s == 90
    assert claim(client, job_id).missed_s == 90
    overdue.refuse(client, claim(client, job_id))
    *claims, last = channel.read_log(client, job_id)
    assert all(isinstance(event, Claim) for event in claims)
    assert isinstance(last, Failed) and last.error.code == "queue_timeout"
    assert last.id == EventId(3, 1)
    assert overdue.end(client) == []
    assert client.zscore(keys.START_BY, job_id) is None, "swept"


def test_a_cancelled_job_ends_once(client: redis.Redis, job_id: str) -> None:
    cancellation.cancel(client, job_id)
    let_time_pass(client, job_id)
    assert overdue.end(client) == []
    (event,) = channel.read_log(client, job_id)
    assert isinstance(event, End) and event.finish_reason == "cancelled"
    assert client.zscore(keys.START_BY, job_id) is None


def test_a_job_whose_record_is_gone_is_forgotten(client: redis.Redis, job_id: str) -> None:
    client.delete(keys.job(job_id))
    client.zadd(keys.START_BY, {job_id: 1.0})
    assert overdue.end(client) == []
    assert client.zscore(keys.START_BY, job_id) is None


@pytest.mark.parametrize(("rate", "seconds"), [(0.4, 3), (1000.0, 1), (0.0001, 60), (0.0, None)])
def test_a_refused_client_is_told_when_there_is_room(
    submitter: Submitter, model: str, rate: float, seconds: int | None
) -> None:
    for _ in range(3):
        submitter.submit(make_request(model), jobs_per_s=rate)
    with pytest.raises(QueueFull) as refused:
        submitter.submit(make_request(model), jobs_per_s=rate)
    assert refused.value.body.retry_after_s == seconds
