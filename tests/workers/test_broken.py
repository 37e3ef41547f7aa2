"""Workers that break: what they were at goes on elsewhere, or after they were started again."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
import torch

from broker import channel, registry
from broker.events import Claim
from broker.messages import GenerateRequest
from broker.supervisor import BROKEN
from frontend.service import Service
from tests.asking import answer, ask, deltas
from tests.stack import Process, Stack, until
from tests.workers.reference import load, request
from workers.engines.base import EngineBroken
from workers.scheduler import Scheduler

SLOW = "tokens_per_s=100&tokens=100"
BREAKING = f"{SLOW}&breaks_after=40"


def claims(stack: Stack, asked: GenerateRequest) -> list[str]:
    """The workers that had a job, in order."""
    log = channel.read_log(stack.redis, asked.id)
    return [event.worker for event in log if isinstance(event, Claim)]


def child(supervisor: Process) -> psutil.Process:
    """The worker under a supervisor."""
    (found,) = until(psutil.Process(supervisor.pid).children, "the worker was started")
    return found


def ready(stack: Stack, pid: int) -> bool:
    return any(i.pid == pid and i.state == "ready" for i in registry.workers(stack.redis))


def test_answers_of_a_worker_that_broke_go_on_in_another(stack: Stack, service: Service) -> None:
    broken = stack.echo_worker(BREAKING)
    asked = [ask(service, f"job-{n}") for n in range(3)]
    for each in asked:
        deltas(service, each, 2)
    stack.echo_worker(SLOW)
    for n, each in enumerate(asked):
        text, end = answer(service, each)
        assert text == " ".join([f"job-{n}"] * 100)
        assert end.usage.completion_tokens == 101
        assert len(set(claims(stack, each))) == 2
    assert broken.wait() == BROKEN
    assert broken.output.count("is queued again: its worker") == 3
    (failed,) = registry.down(stack.redis)
    assert failed.pid == broken.pid
    assert failed.reason.endswith("tokens were told, breaks_after is reached")


def test_answers_of_a_worker_that_hangs_go_on_in_another(stack: Stack, service: Service) -> None:
    hanging = stack.worker(
        "--engine", "echo", "--model-path", f"echo?{SLOW}&hangs_after=40", "--pass-seconds", "2"
    )
    asked = [ask(service, f"job-{n}") for n in range(3)]
    for each in asked:
        deltas(service, each, 2)
    stack.echo_worker(SLOW)
    assert hanging.wait(20) == BROKEN
    for n, each in enumerate(asked):
        assert answer(service, each)[0] == " ".join([f"job-{n}"] * 100)
        assert len(claims(stack, each)) == 2
    (failed,) = registry.down(stack.redis)
    assert failed.reason.startswith("The engine has been in one pass for ")
    assert "engines/echo.py" in hanging.output, "the log says where it hangs"


def test_a_worker_that_broke_is_started_again_and_goes_on(stack: Stack, service: Service) -> None:
    path = f"echo?{SLOW}&breaks_after=60"
    supervisor = stack.worker("--engine", "echo", "--model-path", path, "--restart", wait=False)
    until(lambda: ready(stack, child(supervisor).pid), "the worker is ready")
    asked = ask(service, "word")
    text, end = answer(service, asked)
    assert text == " ".join(["word"] * 100)
    assert end.usage.completion_tokens == 101
    assert len(set(claims(stack, asked))) == 2
    assert supervisor.output.count("the worker broke (status 75)") == 1
    assert "Traceback" not in supervisor.output


def test_a_supervised_worker_comes_back_after_a_kill_and_not_after_a_goodbye(
    stack: Stack,
) -> None:
    supervisor = stack.worker("--engine", "echo", "--model-path", "echo", "--restart", wait=False)
    first = child(supervisor)
    until(lambda: ready(stack, first.pid), "the worker is ready")
    first.kill()
    until(lambda: not psutil.pid_exists(first.pid), "it is dead")
    second = child(supervisor)
    until(lambda: ready(stack, second.pid), "another one is ready")
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    assert not psutil.pid_exists(second.pid)
    assert second.pid not in {info.pid for info in registry.workers(stack.redis)}


def test_a_worker_leaves_when_its_supervisor_is_killed(stack: Stack) -> None:
    supervisor = stack.worker("--engine", "echo", "--model-path", "echo", "--restart", wait=False)
    worker = child(supervisor)
    until(lambda: ready(stack, worker.pid), "the worker is ready")
    supervisor.signal(signal.SIGKILL)
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "it ended")
    assert registry.workers(stack.redis) == []
    assert "got SIGTERM" in supervisor.output


def test_a_wrong_flag_is_not_tried_again(stack: Stack) -> None:
    supervisor = stack.worker(
        "--engine", "echo", "--model-path", "echo?speed=3", "--restart", wait=False
    )
    assert supervisor.wait(30) == 1
    assert "broke" not in supervisor.output


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuBLAS: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
    ],
)
def test_a_broken_device_breaks_the_engine_and_a_bug_fails_its_request(
    llama: Path, error: RuntimeError
) -> None:
    failures: list[RuntimeError] = [RuntimeError("a bug"), error]

    def fail(*_: object) -> None:
        raise failures.pop(0)

    engine = load(llama)
    scheduler = Scheduler(engine)
    scheduler.add(engine.prepare(request("r", "Hello"), {}))
    engine.runner._model.get_decoder().layers[1].register_forward_pre_hook(fail)  # type: ignore
    (output,) = scheduler.step()
    assert output.error is not None and output.error.code == "worker_failed"
    scheduler.add(engine.prepare(request("s", "Hello"), {}))
    with pytest.raises(EngineBroken, match="the device broke: "):
        scheduler.step()
