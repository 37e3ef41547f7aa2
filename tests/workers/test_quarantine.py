"""Jobs whose workers die: tried again, told from those beside them, set aside with the evidence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from broker import channel, keys, leases, orders, quarantine, queues, registry
from broker.events import Claim, Delta, Failed
from broker.messages import GenerateRequest, SamplingParams
from frontend.service import Service
from tests.asking import answer, ask, say
from tests.stack import Process, Stack, until
from tests.workers.test_broken import claims
from workers.intake import Intake

SLOW = "tokens_per_s=50&tokens=200"


def broker(stack: Stack, *command: str, status: int = 0) -> str:
    """Run `python -m broker <command>` and return what it printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "broker", *command],
        env=stack.env | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == status, ran.stderr
    return ran.stdout + ran.stderr


def told_at(stack: Stack, asked: GenerateRequest, attempt: int) -> bool:
    log = channel.read_log(stack.redis, asked.id)
    return any(isinstance(event, Delta) and event.id.attempt == attempt for event in log)


def kill_in(stack: Stack, worker: Process, attempt: int, *jobs: GenerateRequest) -> None:
    """Kill a worker once all jobs have told something at the attempt."""
    for job in jobs:
        until(lambda job=job: told_at(stack, job, attempt), f"attempt {attempt} runs")  # type: ignore[misc]
    worker.signal(signal.SIGKILL)
    worker.wait()


def failure(service: Service, asked: GenerateRequest) -> Failed:
    last = [event for event in service.follow(asked) if event][-1]
    assert isinstance(last, Failed), last
    return last


def test_a_job_whose_worker_died_twice_is_set_aside_and_the_next_one_served(
    stack: Stack, service: Service, red_circle: bytes
) -> None:
    sha256 = service.pictures.add(red_circle)
    first = stack.echo_worker(SLOW)
    asked = service.submit("echo", say("look", sha256), SamplingParams(seed=5))
    kill_in(stack, first, 1, asked)
    kill_in(stack, stack.echo_worker(SLOW), 2, asked)
    stack.echo_worker(SLOW)
    error = failure(service, asked).error
    assert (error.status, error.code) == (500, "worker_failed")
    assert f"Job {asked.id}" in error.message and "set aside" in error.message
    assert answer(service, ask(service, "next", max_tokens=2))[0] == "next next"

    (evidence,) = quarantine.read_all(stack.redis)
    ran = [e.worker for e in channel.read_log(stack.redis, asked.id) if isinstance(e, Claim)][:2]
    assert evidence.workers == tuple(ran) and len(set(ran)) == 2
    assert (evidence.deaths, evidence.model) == (2, "echo")
    assert evidence.tokens > 1
    assert any(f"worker {ran[1]} serves echo" in line for line in evidence.log)
    assert 24 * 3600 < int(stack.redis.ttl(keys.image(sha256))) <= keys.QUARANTINE_TTL_S  # type: ignore[arg-type]
    until(lambda: not leases.read(stack.redis, "echo"), "nothing is left running in RQ's records")
    assert not stack.redis.exists(f"rq:job:{asked.id}")

    assert asked.id in broker(stack, "quarantine", "list")
    shown = json.loads(broker(stack, "quarantine", "show", asked.id))
    assert shown["images"] == [sha256]
    assert shown["parameters"]["seed"] == 5
    assert shown["workers"] == ran
    new_id = broker(stack, "quarantine", "retry", asked.id).strip()
    again = asked.model_copy(update={"id": new_id})
    text, _ = answer(service, again)
    assert text.startswith(f"[image {sha256[:8]}] look")
    broker(stack, "quarantine", "drop", asked.id)
    assert quarantine.read_all(stack.redis) == []
    assert "is set aside" in broker(stack, "quarantine", "show", asked.id, status=1)


def test_a_poisonous_job_is_set_aside_and_those_beside_it_are_answered(
    stack: Stack, service: Service
) -> None:
    # Each worker breaks after 150 tokens: the first with all three jobs, the second when the short
    # ones have ended.
    breaking = "tokens_per_s=100&breaks_after=150"
    first = stack.echo_worker(breaking)
    poison = ask(service, " ".join(["poison"] * 400))
    short = [ask(service, " ".join([f"job-{n}"] * 60)) for n in range(2)]
    assert first.wait(30) == 75
    second = stack.echo_worker(breaking)
    fresh = ask(service, "fresh")
    assert second.wait(30) == 75
    stack.echo_worker()
    assert "set aside" in failure(service, poison).error.message
    for n, each in enumerate(short):
        assert answer(service, each)[0] == " ".join([f"job-{n}"] * 60)
        assert len(set(claims(stack, each))) == 2
    assert answer(service, fresh)[0] == "fresh"
    (evidence,) = quarantine.read_all(stack.redis)
    assert evidence.job_id == poison.id
    assert any("breaks_after is reached" in line for line in evidence.log)


def test_a_job_at_which_the_engine_hangs_twice_is_set_aside(stack: Stack, service: Service) -> None:
    path = "echo?tokens_per_s=100&hangs_after=40"
    flags = ("--engine", "echo", "--model-path", path, "--pass-seconds", "2", "--restart")
    supervisor = stack.worker(*flags, wait=False)
    until(lambda: any(w.state == "ready" for w in registry.workers(stack.redis)), "it is ready")
    asked = ask(service, " ".join(["word"] * 200))
    assert "when 2 workers died" in failure(service, asked).error.message
    (evidence,) = quarantine.read_all(stack.redis)
    assert evidence.job_id == asked.id
    assert any("in one pass for" in line for line in evidence.log)
    supervisor.stop()


def test_jobs_that_died_together_twice_are_tried_one_at_a_time(
    stack: Stack, service: Service
) -> None:
    first = stack.echo_worker(SLOW)
    both = [ask(service, "left"), ask(service, "right")]
    kill_in(stack, first, 1, *both)
    kill_in(stack, stack.echo_worker(SLOW), 2, *both)
    third = stack.echo_worker(SLOW)
    running = until(lambda: [j for j in both if told_at(stack, j, 3)], "one of them runs")
    (suspect,) = running
    (other,) = (job for job in both if job is not suspect)
    beside = ask(service, "beside", max_tokens=3)
    assert answer(service, beside)[0] == "beside beside beside"
    assert len(claims(stack, other)) == 2
    third.signal(signal.SIGKILL)
    third.wait()
    stack.echo_worker(SLOW)
    assert "3 workers died" in failure(service, suspect).error.message
    text, end = answer(service, other)
    assert end.usage.completion_tokens == 201
    assert text == " ".join([other.messages[0].text] * 200)
    assert [each.job_id for each in quarantine.read_all(stack.redis)] == [suspect.id]


def test_a_job_that_a_living_worker_lost_is_tried_again_uncounted(
    stack: Stack, service: Service
) -> None:
    process = stack.echo_worker(SLOW)
    worker = stack.info(process)
    assert worker is not None
    orders.pause(stack.redis, "echo")
    until(lambda: "the model is paused" in process.output, "the worker takes no jobs")
    asked = ask(service, "word")
    # As if the reply to its claim had been lost on the way.
    intake = Intake(queues.model_queue(stack.redis, "echo"), stack.redis, worker.id)
    (job,) = until(lambda: intake.claim(intake.pop(1)), "the worker has put back what it popped")
    assert job.id == asked.id
    orders.resume(stack.redis, "echo")
    assert answer(service, asked)[0] == " ".join(["word"] * 200)
    assert claims(stack, asked) == [worker.id] * 2
    assert stack.redis.hget(keys.job(asked.id), "deaths") is None
