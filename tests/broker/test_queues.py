"""Queues on RQ: what is written, the bound, cancelling, and the table of functions."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from rq.job import Job
from rq.serializers import JSONSerializer

from broker import cancellation, channel, keys, queues
from broker.connection import connect, redis_errors
from broker.errors import KeyReused, QueueFull, RedisUnavailable
from broker.events import End
from broker.idempotency import Once
from broker.messages import GenerateRequest
from broker.submission import Submitter
from tests.broker.jobs import is_accepted, make_request
from tests.stack import free_port


def test_a_submitted_request_waits_in_its_models_queue(
    client: redis.Redis, submitter: Submitter, model: str
) -> None:
    requests = [make_request(model) for _ in range(3)]
    for request in requests:
        submitter.submit(request)
    assert client.lrange(f"rq:queue:{model}", 0, -1) == [r.id.encode() for r in requests]
    assert [queues.position(client, model, r.id) for r in requests] == [0, 1, 2]
    stored = client.hget(keys.job(requests[0].id), "request")
    assert GenerateRequest.model_validate_json(stored) == requests[0]  # type: ignore[arg-type]


def test_rqs_own_record_holds_no_prompt_and_no_pickle(
    client: redis.Redis, submitter: Submitter, model: str
) -> None:
    request = make_request(model)
    submitter.submit(request)
    job = Job.fetch(request.id, connection=client, serializer=JSONSerializer)
    assert (job.func_name, job.args) == ("broker.queues.generate", [request.id])
    raw = client.hgetall(Job.key_for(request.id))
    assert not any(b"secret" in value for value in raw.values())  # type: ignore[union-attr]


def test_as_many_as_there_is_room_for_are_accepted_of_those_who_come_at_once(
    client: redis.Redis, submitter: Submitter, model: str
) -> None:
    with ThreadPoolExecutor(30) as pool:
        accepted = sum(pool.map(lambda _: is_accepted(submitter, model), range(300)))
    assert accepted == client.llen(f"rq:queue:{model}") == 3
    assert client.exists(keys.coming(model)) == 0


def test_who_comes_and_is_not_enqueued_takes_no_place(
    client: redis.Redis, submitter: Submitter, model: str
) -> None:
    once = Once.of("key", b"body")
    first = submitter.submit(make_request(model), once=once)
    for _ in range(5):
        assert submitter.submit(make_request(model), once=once) == first
        with pytest.raises(KeyReused):
            submitter.submit(make_request(model), once=Once.of("key", b"another"))
    assert client.exists(keys.coming(model)) == 0
    # One that died before it was enqueued counts for a while.
    client.zadd(keys.coming(model), {"dead": time.time() - 1, "dying": time.time() + 60})
    submitter.submit(make_request(model))
    with pytest.raises(QueueFull, match="3 requests already wait"):
        submitter.submit(make_request(model))
    client.zrem(keys.coming(model), "dying")
    submitter.submit(make_request(model))


def test_a_full_queue_refuses_with_the_limit(submitter: Submitter, model: str) -> None:
    for _ in range(3):
        submitter.submit(make_request(model))
    with pytest.raises(QueueFull, match="3 requests already wait"):
        submitter.submit(make_request(model))


def test_cancelling_a_waiting_job_ends_it_at_once(
    client: redis.Redis, submitter: Submitter, model: str
) -> None:
    request = make_request(model)
    submitter.submit(request)
    assert cancellation.cancel(client, request.id)
    assert client.llen(f"rq:queue:{model}") == 0
    assert not client.exists(Job.key_for(request.id))
    (event,) = channel.read_log(client, request.id)
    assert isinstance(event, End) and event.finish_reason == "cancelled"
    assert cancellation.cancel(client, request.id), "cancelling twice changes nothing"
    assert len(channel.read_log(client, request.id)) == 1


def test_cancelling_an_unknown_job_says_so(client: redis.Redis) -> None:
    assert not cancellation.cancel(client, "nobody")


def test_a_job_that_names_another_function_is_refused(client: redis.Redis) -> None:
    evil = queues.GenerateJob.create(
        "os.system", args=("true",), connection=client, serializer=JSONSerializer
    )
    with pytest.raises(PermissionError, match="not allowed"):
        _ = evil.func


def test_the_named_function_does_nothing_in_a_foreign_worker() -> None:
    with pytest.raises(RuntimeError, match="python -m workers"):
        queues.generate("j")


def test_an_unreachable_redis_is_told_within_two_seconds() -> None:
    nowhere = connect(f"redis://127.0.0.1:{free_port()}/0")
    begin = time.monotonic()
    with pytest.raises(RedisUnavailable, match="Try again"), redis_errors():
        nowhere.ping()
    assert time.monotonic() - begin < 2.0
