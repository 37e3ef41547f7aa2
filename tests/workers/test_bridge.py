"""The bridge as a real process: foreign workers' models are served from their queues."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from broker import channel, foreign, keys, registry
from broker.errors import NoLiveWorker
from broker.events import Claim, Delta, Failed
from broker.messages import GenerateRequest, SamplingParams
from frontend.service import Service
from tests.asking import answer, say
from tests.stack import Process, Stack, free_port, until
from tests.workers.foreign_stack import MODEL, StandIn, register, start

INTERNVL = "InternVL2-8B"


def bridge(stack: Stack, *flags: str) -> Process:
    return stack.start("bridge", "workers", "bridge", *flags)


def serves(stack: Stack, model: str = MODEL, slots: int = 5) -> bool:
    workers = registry.workers(stack.redis)
    return any(w.model == model and w.state == "ready" and w.slots == slots for w in workers)


def await_model(stack: Stack, model: str = MODEL, slots: int = 5) -> None:
    until(lambda: serves(stack, model, slots), f"{model} is served with {slots} slots", 60)


def ask(
    service: Service, text: str, model: str = MODEL, *shas: str, **params: object
) -> GenerateRequest:
    return service.submit(
        model,
        say(f"SAY[{text}]", *shas),
        SamplingParams.model_validate({"max_tokens": 99, **params}),
    )


def broker(stack: Stack, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker", *command],
        env=stack.env | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
    )


def test_models_of_foreign_workers_are_served_from_their_queues(
    stack: Stack, service: Service, red_circle: bytes
) -> None:
    bridge(stack)
    llava, internvl = start(stack), start(stack, INTERNVL, kind="internvl")
    await_model(stack)
    await_model(stack, INTERNVL)
    request = ask(
        service, "The first answer, word by word.", MODEL, service.pictures.add(red_circle)
    )
    text, end = answer(service, request)
    assert text.startswith("The first answer, word by word. PNG RGB (224, 224) (")
    assert end.finish_reason == "stop"
    deltas = [e for e in channel.read_log(stack.redis, request.id) if isinstance(e, Delta)]
    assert [delta.id.n for delta in deltas] == list(range(1, len(deltas) + 1))
    assert answer(service, ask(service, "Hi", INTERNVL))[0] == "Hi"
    texts = [f"answer {n} of twenty" for n in range(20)]
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda each: answer(service, ask(service, each))[0], texts)) == texts
    assert llava.seen()["most_parallel"] <= 5
    assert len(internvl.seen()["payloads"]) == 1


def post(address: str, route: str, body: object) -> Any:
    reply = httpx.post(f"{address}/{route}", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply


def test_a_worker_that_registers_with_the_api_answers_the_apis_clients(stack: Stack) -> None:
    api, worker = stack.api(), StandIn(stack)
    bridge(stack)
    status = {"model_names": [MODEL], "speed": 1, "queue_length": 0}
    said = {"worker_name": worker.address, "check_heart_beat": True, "worker_status": status}
    assert post(api, "register_worker", said).json() is None
    beat = {"worker_name": worker.address, "queue_length": 0}
    assert post(api, "receive_heart_beat", beat).json() == {"exist": True}
    await_model(stack)
    assert post(api, "list_models", None).json() == {"models": [MODEL]}
    assert post(api, "get_worker_address", {"model": MODEL}).json() == {"address": api}
    prompt = "A chat. USER: SAY[From theirs to ours to theirs.] ASSISTANT:"
    payload = {"model": MODEL, "prompt": prompt, "max_new_tokens": 99, "stop": "</s>", "images": []}
    chunks = post(api, "worker_generate_stream", payload).content.split(b"\0")
    last = json.loads(chunks[-2])
    assert last == {"text": f"{prompt}From theirs to ours to theirs.", "error_code": 0}
    (asked,) = worker.seen()["payloads"]
    assert asked["prompt"] == prompt


def test_an_answer_that_broke_off_goes_on_elsewhere_without_a_repeat(
    stack: Stack, service: Service
) -> None:
    cut = start(stack, behave="cut", pace=0.05)
    bridge(stack)
    await_model(stack)
    request = ask(service, "one two three four five six seven")
    until(lambda: cut.seen()["payloads"], "the worker that will fail has it")
    start(stack)
    text, end = answer(service, request)
    assert (text, end.finish_reason) == ("one two three four five six seven", "stop")


def test_a_request_that_every_worker_fails_gets_one_clear_error(
    stack: Stack, service: Service
) -> None:
    start(stack, behave="failing")
    start(stack, behave="failing")
    bridge(stack)
    await_model(stack, slots=10)
    request = ask(service, "x")
    events = [event for event in service.follow(request) if event]
    assert isinstance(events[-1], Failed)
    assert "Every worker of model 'llava-v1.5-7b' failed" in events[-1].error.message
    assert [type(event) for event in events if not isinstance(event, Claim)] == [Failed]


def test_a_worker_without_heartbeats_is_asked_and_followed(stack: Stack, service: Service) -> None:
    port = free_port()
    worker = StandIn(stack, model="first", port=port)
    bridge(stack)
    added = broker(stack, "foreign", "add", worker.address, "--no-heart-beat")
    assert (added.returncode, added.stderr) == (0, "")
    await_model(stack, "first")
    assert stack.redis.ttl(keys.foreign_worker(worker.address)) == -1
    shown = broker(stack, "status").stdout
    (row,) = [line for line in shown.splitlines() if worker.address in line]
    assert row.replace("│", " ").split() == [worker.address, "first", "no", "0"]
    worker.process.stop()
    StandIn(stack, model="second", port=port)
    await_model(stack, "second")
    until(lambda: not serves(stack, "first"), "the old model's process ended")
    assert broker(stack, "foreign", "remove", worker.address).returncode == 0
    until(lambda: not serves(stack, "second"), "the new model's process ended")
    assert "is registered" in broker(stack, "foreign", "remove", worker.address).stderr


def test_requests_for_a_worker_that_others_keep_busy_stay_in_the_queue(stack: Stack) -> None:
    start(stack, queue_length=5)
    bridge(stack)
    await_model(stack, slots=0)
    impatient = Service(stack.settings(HELIOGRAPH_QUEUE_TIMEOUT_S="1"))
    late = ask(impatient, "too late")
    (failed,) = [event for event in impatient.follow(late) if event]
    assert isinstance(failed, Failed) and failed.error.code == "queue_timeout"
    start(stack)
    await_model(stack, slots=5)
    assert answer(impatient, ask(impatient, "in time"))[0] == "in time"
    impatient.close()


def test_an_address_that_may_not_be_called_is_not_added(stack: Stack) -> None:
    refused = broker(stack, "foreign", "add", "http://169.254.169.254")
    assert refused.returncode == 1
    assert "is not an address that may be called from here" in refused.stderr
    assert "is no worker address" in broker(stack, "foreign", "add", "worker").stderr
    assert foreign.workers(stack.redis) == []


def test_a_worker_whose_heartbeats_end_is_served_no_more(stack: Stack, service: Service) -> None:
    worker = start(stack)
    bridge(stack)
    await_model(stack)
    assert foreign.beat(stack.redis, worker.address, 0)
    # Time goes by for Redis, not for this test.
    stack.redis.pexpire(keys.foreign_worker(worker.address), 1)
    # It stops being ready before it ends; only when it has ended nobody serves the model.
    until(lambda: registry.workers(stack.redis) == [], "the process ended")
    with pytest.raises(NoLiveWorker):
        ask(service, "x")
    assert not foreign.beat(stack.redis, worker.address, 0)


def test_a_dead_worker_takes_no_jobs_until_it_is_back(stack: Stack, service: Service) -> None:
    port = free_port()
    register(stack, f"http://127.0.0.1:{port}", heartbeats=False)
    bridge(stack)

    def reasons() -> list[str]:
        return [w.reason for w in registry.down(stack.redis) if w.state == "unavailable"]

    until(lambda: any("cannot be connected to" in each for each in reasons()), "it waits", 60)
    StandIn(stack, port=port)
    await_model(stack)
    assert answer(service, ask(service, "back again"))[0] == "back again"


def children(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def test_a_standby_takes_over_and_no_process_is_left_behind(stack: Stack, service: Service) -> None:
    start(stack)
    first = bridge(stack)
    await_model(stack)
    second = bridge(stack)
    until(lambda: "this bridge stands by" in second.output, "the standby has started")
    (orphan,) = children(first)
    first.signal(signal.SIGKILL)
    (heir,) = until(lambda: children(second), "the standby took over", 15)
    until(lambda: not orphan.is_running() or orphan.status() == "zombie", "the old one ended")
    until(
        lambda: any(
            w.pid == heir.pid and w.state == "ready" for w in registry.workers(stack.redis)
        ),
        "ready",
        60,
    )
    assert answer(service, ask(service, "still here"))[0] == "still here"
    second.signal(signal.SIGTERM)
    assert second.wait() == 0
    assert not psutil.pid_exists(heir.pid)
    assert stack.redis.get(keys.BRIDGE_LOCK) is None


def test_a_process_that_dies_is_started_again(stack: Stack, service: Service) -> None:
    start(stack)
    running = bridge(stack, "--dispatch-method", "lottery", "--limit-model-concurrency", "3")
    await_model(stack, slots=3)
    (child,) = children(running)
    assert child.cmdline()[-2:] == ["--limit-model-concurrency=3", "--dispatch-method=lottery"]
    child.kill()
    until(lambda: any(each.pid != child.pid for each in children(running)), "another one")
    await_model(stack, slots=3)
    assert answer(service, ask(service, "again"))[0] == "again"


def test_a_bridge_without_foreign_workers_costs_little(stack: Stack) -> None:
    idle = psutil.Process(bridge(stack).pid)
    until(lambda: stack.redis.exists(keys.BRIDGE_LOCK), "it is at work")
    before = idle.cpu_times()
    until(lambda: stack.redis.ttl(keys.BRIDGE_LOCK) < 5, "a turn has passed")
    until(lambda: stack.redis.ttl(keys.BRIDGE_LOCK) == 5, "and another")
    after = idle.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.2
    loaded = {path.path for path in idle.memory_maps()}
    assert not [path for path in loaded if "/torch/" in path]
    assert idle.children() == []


def test_the_bridge_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, workers.bridge; print({'torch', 'transformers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
