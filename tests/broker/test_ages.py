"""The age of a job, by Redis's clock alone."""

from __future__ import annotations

import uuid

import redis

from broker import ages, keys
from tests.stack import until


def age(client: redis.Redis, job_id: str) -> float:
    pipe = client.pipeline()
    ages.ask(pipe, job_id)
    return ages.read(pipe.execute()[0])


def test_a_job_grows_older_from_its_stamp_on(client: redis.Redis) -> None:
    job_id = uuid.uuid4().hex
    pipe = client.pipeline()
    ages.stamp(pipe, job_id)
    pipe.execute()
    first = age(client, job_id)
    assert 0.0 <= first < 1.0
    until(lambda: age(client, job_id) > first + 0.1, "it grows older", 5)
    client.hincrbyfloat(keys.job(job_id), "submitted_s", -300)
    assert 300.0 < age(client, job_id) < 305.0
    client.delete(keys.job(job_id))


def test_an_unknown_age_and_a_clock_that_was_set_back_count_as_none(client: redis.Redis) -> None:
    job_id = uuid.uuid4().hex
    assert age(client, job_id) == 0.0
    assert not client.exists(keys.job(job_id))
    client.hset(keys.job(job_id), "submitted_s", "99999999999.0")
    assert age(client, job_id) == 0.0
    client.delete(keys.job(job_id))
