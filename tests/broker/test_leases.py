"""Leases: a job goes back to its queue once, whoever tries, and not if another attempt has it."""

from __future__ import annotations

import time

import pytest
import redis
from rq.executions import Execution
from rq.serializers import JSONSerializer

from broker import keys, leases, queues
from broker.leases import Lease
from broker.submission import Submitter
from tests.broker.jobs import make_request


def run(client: redis.Redis, submitter: Submitter, model: str) -> Lease:
    """Submit a job and have it run as attempt 1."""
    request = make_request(model)
    submitter.submit(request)
    client.lrem(queues.queue_key(model), 1, request.id)
    client.hset(keys.job(request.id), mapping={"attempt": 1, "state": "running"})
    client.zadd(leases.leases_key(model), {f"{request.id}:e1": 100.0})
    return Lease(request.id, "e1", 100.0)


def waiting(client: redis.Redis, model: str) -> list[bytes]:
    return client.lrange(queues.queue_key(model), 0, -1)  # type: ignore[return-value]


def test_a_job_is_given_back_once_and_counted_once(
    client: redis.Redis,
    submitter: Submitter,
    model: str,
) -> None:
    lease = run(client, submitter, model)
    assert leases.read(client, model) == [lease]
    for _ in range(2):
        pipe = client.pipeline()
        leases.give_back(pipe, model, lease, attempt=1, death=True, suspect=True)
        pipe.execute()
    assert waiting(client, model) == [lease.job_id.encode()]
    assert leases.read(client, model) == []
    record = client.hmget(keys.job(lease.job_id), "deaths", "state", "failures")
    assert record == [b"1", b"queued", None]
    assert client.hget(f"rq:job:{lease.job_id}", "meta") == b'{"suspect": true}'


def test_a_job_that_another_attempt_has_is_not_queued(
    client: redis.Redis,
    submitter: Submitter,
    model: str,
) -> None:
    lease = run(client, submitter, model)
    client.hset(keys.job(lease.job_id), "attempt", 2)
    pipe = client.pipeline()
    leases.give_back(pipe, model, lease, attempt=1)
    pipe.execute()
    assert waiting(client, model) == []
    assert leases.read(client, model) == []


def test_a_failure_is_counted_once_and_its_lease_runs_out(
    client: redis.Redis,
    submitter: Submitter,
    model: str,
) -> None:
    lease = run(client, submitter, model)
    for _ in range(2):
        leases.let_go(client, model, lease)
    assert leases.read(client, model) == [lease._replace(expires_s=1.0)]
    assert client.hget(keys.job(lease.job_id), "failures") == b"1"


def test_a_popped_job_can_go_to_the_end_of_its_queue(
    client: redis.Redis,
    submitter: Submitter,
    model: str,
) -> None:
    requests = [make_request(model) for _ in range(2)]
    for request in requests:
        submitter.submit(request)
    client.lmove(queues.queue_key(model), queues.intermediate_key(model))
    queues.put_back(client, model, requests[0].id, at_front=False)
    assert waiting(client, model) == [requests[1].id.encode(), requests[0].id.encode()]


@pytest.mark.parametrize("wrong_by_s", [-300, 300])
def test_leases_run_by_redis_clock_whatever_the_workers_says(
    client: redis.Redis,
    submitter: Submitter,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    wrong_by_s: int,
) -> None:
    clock = int(time.time()) + wrong_by_s
    monkeypatch.setattr("rq.registry.current_timestamp", lambda: clock)
    request = make_request(model)
    submitter.submit(request)
    job = queues.GenerateJob.fetch(request.id, client, serializer=JSONSerializer)
    pipe = client.pipeline()
    execution = Execution.create(job, 6, pipe, worker_name="w")
    pipe.execute()

    def left_s() -> list[float]:
        seconds, microseconds = client.time()  # type: ignore[misc]
        now_s = seconds + microseconds / 1e6
        return [lease.expires_s - now_s for lease in leases.read(client, model)]

    assert left_s() == [pytest.approx(6, abs=1)]
    lease = Lease(request.id, execution.id, 0.0)
    leases.renew(pipe, model, [lease, lease._replace(execution_id="taken away")], 60)
    pipe.execute()
    assert left_s() == [pytest.approx(60, abs=1)]
    assert [client.ttl(execution.key), client.ttl(job.execution_registry.key)] == [60, 120]
    seconds, _ = client.time()  # type: ignore[misc]
    execution.refresh()  # type: ignore[no-untyped-call]
    assert execution.last_heartbeat.timestamp() == pytest.approx(seconds, abs=2)
    assert client.zscore(job.execution_registry.key, execution.id) == pytest.approx(
        seconds + 120, abs=2
    )
    assert client.exists(f"rq:execution:{request.id}:taken away") == 0
    # A lease that somebody took away does not come back.
    client.delete(leases.leases_key(model), execution.key)
    leases.renew(pipe, model, [lease], 60)
    pipe.execute()
    assert left_s() == []
    assert client.exists(execution.key) == 0
