"""How long jobs hold their slots: measured, told in the heartbeat, and jobs that come too late."""

from __future__ import annotations

import uuid

import pytest
import redis

from broker import channel, orders, registry
from broker.connection import connect
from broker.events import Claim, Failed
from broker.messages import WorkerInfo
from broker.patience import Patience
from broker.queues import intermediate_key, model_queue, queue_key
from broker.submission import Submitter
from frontend.service import Service
from tests.asking import answer, ask
from tests.broker.jobs import make_request
from tests.broker.test_overdue import let_time_pass
from tests.stack import Stack, until
from workers.intake import Intake
from workers.turnover import JOBS, Turnover


def test_the_mean_is_that_of_the_last_jobs() -> None:
    turnover = Turnover()
    assert turnover.mean_s == 0.0
    for held_s in (100.0, 2.0, -3.0):
        turnover.note(held_s)
    assert turnover.mean_s == 34.0
    for _ in range(JOBS):
        turnover.note(0.5)
    assert turnover.mean_s == 0.5


def told(stack: Stack) -> WorkerInfo:
    (info,) = registry.workers(stack.redis)
    return info


def test_a_worker_tells_how_long_its_jobs_take(stack: Stack) -> None:
    stack.echo_worker("tokens_per_s=20&tokens=10", **{"limit-model-concurrency": "2"})
    service = Service(stack.settings())
    assert told(stack).job_s == 0
    for request in [ask(service, "word") for _ in range(4)]:
        answer(service, request)
    job_s = until(lambda: told(stack).job_s, "it is measured")
    assert 0.4 < job_s < 2.0, "ten tokens and an end at 20 a second"
    (model,) = registry.models(stack.redis)
    assert model.jobs_per_s == pytest.approx(2 / told(stack).job_s)
    orders.pause(stack.redis, "echo")
    until(lambda: told(stack).job_s == 0, "no job ends while none is taken")
    service.close()


def test_a_worker_that_pops_a_job_too_late_does_not_start_it(
    client: redis.Redis, server_url: str
) -> None:
    model, once = f"model-{uuid.uuid4().hex[:8]}", connect(server_url, retry=False)
    submitter = Submitter(once, max_queue_length=9)
    late, early = (
        submitter.submit(make_request(model), may_wait=Patience(start_within_s=60))
        for _ in range(2)
    )
    intake = Intake(model_queue(once, model), client, "worker")
    popped = intake.pop(2)
    let_time_pass(client, late)
    (started,) = intake.claim(popped)
    assert (popped, started.id) == ([late, early], early)
    claim, failed = channel.read_log(client, late)
    assert isinstance(claim, Claim)
    assert isinstance(failed, Failed) and failed.error.code == "queue_timeout"
    assert client.llen(queue_key(model)) == client.llen(intermediate_key(model)) == 0
    assert client.zcard(f"rq:wip:{model}") == 1
    assert not client.exists(f"rq:job:{late}")
    once.close()
