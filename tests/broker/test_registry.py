"""The registry: who is alive, what they serve, and how a dead one disappears."""

from __future__ import annotations

import uuid

import pytest
import redis

from broker import keys, registry
from broker.errors import ModelNotFound, NoLiveWorker
from broker.messages import WorkerInfo


def announce(client: redis.Redis, model: str, **changes: object) -> WorkerInfo:
    info = WorkerInfo.model_validate(
        {
            "id": uuid.uuid4().hex[:8],
            "model": model,
            "engine": "echo",
            "device": "cpu",
            "host": "here",
            "pid": 1,
            "state": "ready",
            "slots": 4,
            "context_length": 100,
            **changes,
        }
    )
    pipe = client.pipeline()
    registry.announce(pipe, info)
    pipe.execute()
    return info


@pytest.fixture
def model() -> str:
    return f"model-{uuid.uuid4().hex[:8]}"


def test_a_heartbeat_reads_back_and_expires(client: redis.Redis, model: str) -> None:
    info = announce(client, model, images=True, speed=12.5)
    assert info in registry.workers(client)
    assert 0 < client.ttl(keys.worker(info.id)) <= keys.WORKER_TTL_S  # type: ignore[operator]


def test_a_worker_whose_heartbeat_expired_is_swept(client: redis.Redis, model: str) -> None:
    info = announce(client, model)
    client.delete(keys.worker(info.id))
    assert info not in registry.workers(client)
    assert not client.sismember(keys.WORKERS, info.id)


def test_a_worker_that_is_silent_and_not_connected_has_vanished(
    client: redis.Redis, model: str
) -> None:
    info = announce(client, model)
    other = announce(client, model, state="loading")

    def vanished() -> list[WorkerInfo]:
        return [each for each in registry.vanished(client) if each.model == model]

    assert vanished() == []  # not connected, but it has just been heard
    client.pexpire(keys.worker(info.id), 1400)
    client.pexpire(keys.worker(other.id), 1400)  # one that loads is connected later
    assert vanished() == [info]
    pubsub = client.pubsub()  # type: ignore[no-untyped-call]
    pubsub.subscribe(keys.worker_here(info.id))
    assert pubsub.get_message(timeout=5)
    client.pexpire(keys.worker(info.id), 1400)
    assert vanished() == []  # silent, but connected
    pubsub.close()


def test_a_model_sums_its_workers(client: redis.Redis, model: str) -> None:
    announce(client, model, running=1, speed=10)
    announce(client, model, running=3, speed=20, context_length=50)
    announce(client, model, state="loading", progress=40, slots=0, context_length=0)
    found = registry.find_model(client, model)
    assert (found.workers, found.ready, found.slots, found.running) == (3, 2, 8, 4)
    assert (found.context_length, found.speed, found.queue_length) == (50, 30, 0)


def test_a_models_rate_is_that_of_its_slots_when_all_are_taken(
    client: redis.Redis, model: str
) -> None:
    announce(client, model)
    assert registry.find_model(client, model).jobs_per_s == 0
    announce(client, model, slots=2, job_s=0.5)
    announce(client, model, slots=6, job_s=3.0)
    announce(client, model, state="draining", slots=50, job_s=1.0)
    found = registry.find_model(client, model)
    assert found.jobs_per_s == (4 + 2) * 12 / 8, "the unmeasured slots are like the others"


def test_a_model_that_lost_its_workers_is_told_from_an_unknown_one(
    client: redis.Redis, model: str
) -> None:
    info = announce(client, model)
    registry.withdraw(client, info.id)
    with pytest.raises(NoLiveWorker, match="Start one"):
        registry.find_model(client, model)
    with pytest.raises(ModelNotFound, match="not served here"):
        registry.find_model(client, "never-heard-of")


def test_a_record_of_a_later_version_is_read_without_what_is_new(
    client: redis.Redis, model: str
) -> None:
    info = announce(client, model)
    client.hset(keys.worker(info.id), "temperature_of_the_room", "21")
    assert info in registry.workers(client)


def test_records_that_cannot_be_read_are_passed_over_and_told_once(
    client: redis.Redis, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    info = announce(client, model)
    strange, wrong, binary = (uuid.uuid4().hex[:8] for _ in range(3))
    client.hset(keys.worker(strange), "pid", "many")
    client.set(keys.worker(wrong), "a string")
    client.hset(keys.worker(binary), mapping={b"id": b"\xff"})
    client.sadd(keys.WORKERS, strange, wrong, binary, b"\xff\xfe")
    try:
        for _ in range(2):
            assert info in registry.workers(client)
        assert registry.find_model(client, model).workers == 1
        assert sorted(r.getMessage().split()[0] for r in caplog.records) == sorted(
            keys.worker(worker_id) for worker_id in (strange, wrong, binary)
        )
    finally:
        client.delete(*map(keys.worker, (strange, wrong, binary)))


def test_a_failed_worker_says_why_for_a_while_and_counts_nowhere(
    client: redis.Redis, model: str
) -> None:
    info = announce(client, model, state="failed", reason="no such file")
    assert keys.WORKER_TTL_S < client.ttl(keys.worker(info.id)) <= keys.FAILED_WORKER_TTL_S  # type: ignore[operator]
    assert info in registry.down(client)
    assert info not in registry.workers(client)
    with pytest.raises(NoLiveWorker):
        registry.find_model(client, model)
