"""Orders of operators: a worker is drained, a model paused and resumed."""

from __future__ import annotations

import psutil

from broker import orders, queues, registry
from frontend.service import Service
from tests.asking import answer, ask, deltas
from tests.stack import Stack, until
from tests.workers.test_broken import child, claims, ready
from tests.workers.test_quarantine import broker

SLOW = "tokens_per_s=100&tokens=800"


def test_a_drained_worker_ends_its_answers_while_another_serves(
    stack: Stack, service: Service
) -> None:
    flags = ("--engine", "echo", "--model-path", f"echo?{SLOW}", "--restart")
    supervisor = stack.worker(*flags, "--drain-seconds", "60", wait=False)
    first = child(supervisor)
    until(lambda: ready(stack, first.pid), "the worker is ready")
    asked = ask(service, "word")
    deltas(service, asked, 2)
    other = stack.info(stack.echo_worker(SLOW))
    leaving = next(w for w in registry.workers(stack.redis) if w.pid == first.pid)
    broker(stack, "drain", leaving.id)

    def draining() -> bool:
        states = {w.id: (w.state, w.running) for w in registry.workers(stack.redis)}
        return states[leaving.id] == ("draining", 1)

    until(draining, "the registry says so")
    assert registry.models(stack.redis)[0].ready == 1
    assert other is not None
    for n in range(3):
        new = ask(service, f"new-{n}", max_tokens=2)
        assert answer(service, new)[0] == f"new-{n} new-{n}"
        assert claims(stack, new) == [other.id]
    assert answer(service, asked)[0] == " ".join(["word"] * 800)
    assert claims(stack, asked) == [leaving.id]
    assert supervisor.wait() == 0
    assert not psutil.pid_exists(first.pid)
    assert [w.id for w in registry.workers(stack.redis)] == [other.id]
    assert "no worker" in broker(stack, "drain", leaving.id, status=1)


def test_a_paused_models_requests_wait_and_its_answers_go_on(
    stack: Stack, service: Service
) -> None:
    stack.echo_worker(SLOW)
    asked = ask(service, "word")
    deltas(service, asked, 2)
    broker(stack, "pause", "echo")
    waiting = ask(service, "waiting", max_tokens=2)
    stack.echo_worker()  # one that starts later is paused as well
    assert answer(service, asked)[0] == " ".join(["word"] * 800)
    assert queues.position(stack.redis, "echo", waiting.id) == 0
    assert claims(stack, waiting) == []
    assert "Model echo is paused" in broker(stack, "status")
    broker(stack, "resume", "echo")
    answer(service, waiting)
    assert orders.paused(stack.redis) == set()
    assert "is paused" not in broker(stack, "status")
    assert "never served" in broker(stack, "pause", "ohce", status=1)
    assert "was not paused" in broker(stack, "resume", "echo", status=1)
