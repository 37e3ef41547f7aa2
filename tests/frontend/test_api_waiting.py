"""What a client is told while its job waits, and what ends its waiting."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from broker import keys, queues, registry
from broker.errors import NoLiveWorker
from broker.events import EventId, Failed
from broker.messages import SamplingParams
from broker.queues import queue_key
from frontend import orphans
from frontend.service import Service
from tests.asking import say
from tests.frontend.clients import Connection, body, post
from tests.frontend.test_api_jobs import look
from tests.frontend.test_api_stream import HandWorker
from tests.stack import Stack, until

SendUp = Callable[..., Connection]


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    return echo_stack.api(HELIOGRAPH_MAX_QUEUE_LENGTH="3")


def known(worker: HandWorker) -> HandWorker:
    models = registry.models
    until(lambda: worker.model in {info.name for info in models(worker.redis)}, "announced")
    return worker


@pytest.fixture
def worker(echo_stack: Stack) -> Iterator[HandWorker]:
    """A worker with one slot that takes four seconds for a job."""
    name = f"by-hand-{uuid.uuid4().hex[:8]}"
    made = known(HandWorker(echo_stack.redis, id=name, model=name, slots=1, job_s=4.0))
    yield made
    made.leave()


@pytest.fixture
def send(address: str, worker: HandWorker) -> Iterator[SendUp]:
    """Sends a streamed request and waits until its job is queued."""
    connections = []

    def send(**fields: object) -> Connection:
        before = worker.redis.llen(queue_key(worker.model))
        connection = Connection(address)
        connections.append(connection)
        connection.send(body(model=worker.model, stream=True, **fields))
        until(lambda: worker.redis.llen(queue_key(worker.model)) != before, "queued")
        return connection

    yield send
    for connection in connections:
        connection.close()


def test_a_waiting_stream_is_told_each_change_of_its_place(
    worker: HandWorker, send: SendUp
) -> None:
    for _ in range(2):
        send()
    stream = send()
    assert stream.wait_for("X-Queue-Position") == "X-Queue-Position: 2"
    assert stream.wait_for(":") == ": queue position 2, about 12 s"
    worker.pop()
    began_s = time.monotonic()
    assert stream.wait_for(":") == ": queue position 1, about 8 s"
    assert time.monotonic() - began_s < 3.0
    told_s = time.monotonic()
    worker.pop()
    assert stream.wait_for(":") == ": queue position 0, about 4 s"
    assert 0.9 < time.monotonic() - told_s < 3.0
    job_id = worker.pop()
    worker.end(job_id, EventId(worker.claim(job_id), 1), "mine")
    assert '"content":"mine"' in next(line for line in stream.lines() if "mine" in line)


def test_a_place_that_stays_is_told_every_five_seconds(worker: HandWorker, send: SendUp) -> None:
    stream = send()
    assert stream.wait_for(":") == ": queue position 0, about 4 s"
    told_s = time.monotonic()
    assert stream.wait_for(":") == ": queue position 0, about 4 s"
    assert 4.0 < time.monotonic() - told_s < 7.0


def test_a_job_has_an_eta_while_it_waits(address: str, worker: HandWorker, send: SendUp) -> None:
    send(), send()
    ids = [raw.decode() for raw in worker.redis.lrange(queue_key(worker.model), 0, -1)]
    until(lambda: look(address, ids[0])["eta_s"], "this process has seen the worker")
    assert [look(address, job_id)["queue_position"] for job_id in ids] == [0, 1]
    assert [look(address, job_id)["eta_s"] for job_id in ids] == [4.0, 8.0]
    job_id = worker.pop()
    worker.claim(job_id)
    assert (look(address, job_id)["state"], look(address, job_id)["eta_s"]) == ("running", None)


def test_without_a_measured_job_no_eta_is_told(address: str, echo_stack: Stack) -> None:
    worker = known(HandWorker(echo_stack.redis, id="new", model="new", slots=1))
    with Connection(address) as stream:
        stream.send(body(model="new", stream=True))
        assert stream.wait_for(":") == ": queue position 0"
        assert look(address, worker.pop())["eta_s"] is None
    worker.leave()


def test_a_full_queue_says_by_its_rate_when_to_come_back(
    address: str, worker: HandWorker, send: SendUp
) -> None:
    for _ in range(3):
        send()
    refused = post(address, body(model=worker.model))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert refused.headers["retry-after"] == "4"


def test_a_job_that_nobody_takes_in_time_ends_with_an_error(
    address: str, worker: HandWorker
) -> None:
    began_s = time.monotonic()
    reply = post(address, body(model=worker.model, queue_timeout=1))
    assert 1.0 <= time.monotonic() - began_s < 8.0
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "queue_timeout")
    assert "within 1 s" in reply.json()["error"]["message"]
    assert reply.headers["retry-after"] == "8", "one was waiting and one more comes"
    assert worker.redis.llen(queue_key(worker.model)) == 0


def test_a_stream_tells_in_its_last_event_that_nobody_came(
    worker: HandWorker, send: SendUp
) -> None:
    lines = list(send(queue_timeout=2.5).lines_until_done())
    assert '"code":"queue_timeout"' in lines[-2]
    assert ": queue position 0, about 4 s" in lines


def test_the_deadline_of_the_settings_holds_for_requests_without_one(
    echo_stack: Stack, worker: HandWorker
) -> None:
    address = echo_stack.api(HELIOGRAPH_QUEUE_TIMEOUT_S="1")
    reply = post(address, body(model=worker.model))
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "queue_timeout")
    with Connection(address) as patient:
        patient.send(body(model=worker.model, queue_timeout=30))
        job_id = worker.pop()
        worker.end(job_id, EventId(worker.claim(job_id), 1), "in time")
        assert patient.body()["choices"][0]["message"]["content"] == "in time"


def test_the_deadline_comes_when_the_process_that_took_the_job_has_died(
    echo_stack: Stack, address: str, worker: HandWorker
) -> None:
    doomed_address = echo_stack.api()
    doomed = echo_stack.processes[-1]
    with Connection(doomed_address) as client:
        client.send(body(model=worker.model, queue_timeout=2, on_disconnect="detach"))
        queue = queue_key(worker.model)
        (raw,) = until(lambda: worker.redis.lrange(queue, 0, -1), "it waits")
        doomed.signal(signal.SIGKILL)
        doomed.wait()
        until(lambda: look(address, raw.decode())["state"] == "failed", "it is given up")
    assert worker.redis.llen(queue) == 0
    assert worker.redis.zscore(keys.START_BY, raw) is None


def test_a_request_may_wait_for_a_worker_of_a_model_that_was_served_once(stack: Stack) -> None:
    stack.echo_worker().stop()
    address = stack.api()
    refused = post(address, body())
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_live_worker")
    assert refused.headers["retry-after"] == "5"
    unknown = post(address, body(model="never-served", wait_for_worker=30))
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    with Connection(address) as client:
        client.send(body("at last", wait_for_worker=60))
        until(lambda: stack.redis.llen(queue_key("echo")), "it waits")
        stack.echo_worker()
        assert client.body()["choices"][0]["message"]["content"] == "at last"


def test_nobody_waits_longer_for_a_worker_than_was_asked_for(stack: Stack) -> None:
    """Nor is there a worker of another model whose janitor could end it."""
    stack.echo_worker().stop()
    address = stack.api()
    began_s = time.monotonic()
    reply = post(address, body(wait_for_worker=2))
    assert 2.0 <= time.monotonic() - began_s < 8.0
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "queue_timeout")
    assert reply.headers["retry-after"] == "5"
    began_s = time.monotonic()
    reply = post(address, body(wait_for_worker=60, queue_timeout=1))
    assert reply.json()["error"]["code"] == "queue_timeout"
    assert time.monotonic() - began_s < 8.0, "the shorter of both"


def test_a_job_that_waits_for_a_worker_is_not_given_up_before_its_time(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "ORPHAN_S", 1.0)
    stack.echo_worker().stop()
    service = Service(stack.settings())
    asked = service.submit("echo", say("word"), SamplingParams(), wait_for_worker_s=5.0)
    (failed,) = [event for event in service.follow(asked) if event is not None]
    assert isinstance(failed, Failed) and failed.error.code == "queue_timeout"
    assert "within 5 s" in failed.error.message
    service.close()


def test_a_job_that_was_to_wait_for_nobody_is_given_up_when_its_workers_are_gone(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "ORPHAN_S", 1.0)
    worker = known(HandWorker(stack.redis))
    service = Service(stack.settings())
    asked = service.submit(worker.model, say("word"), SamplingParams())
    worker.leave()
    registry.withdraw(stack.redis, "hand")
    with pytest.raises(NoLiveWorker, match=asked.id):
        list(service.follow(asked))
    assert queues.position(stack.redis, worker.model, asked.id) is None
    service.close()
