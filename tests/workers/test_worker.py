"""The batch worker as a real process: many jobs at once, cancel, failover, RQ's records."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from broker import channel, keys, registry
from broker.events import Claim, End, Failed
from broker.messages import SamplingParams
from frontend.service import Service
from tests.asking import answer, ask, deltas, running, say
from tests.stack import Stack, embedded_valkey, real_redis, until


@pytest.fixture
def service(echo_stack: Stack) -> Iterator[Service]:
    made = Service(echo_stack.settings())
    yield made
    made.close()


def test_the_answer_is_logged_and_nothing_is_left_in_rq(
    service: Service, echo_stack: Stack
) -> None:
    request = ask(service, "one two three")
    text, end = answer(service, request)
    assert (text, end.finish_reason) == ("one two three", "stop")
    assert end.usage.completion_tokens == 4
    client = echo_stack.redis
    until(lambda: not client.exists(f"rq:job:{request.id}"), "RQ's record is closed")
    queue = Queue("echo", connection=client, serializer=JSONSerializer)
    assert queue.started_job_registry.get_job_ids(cleanup=False) == []
    assert client.lrange("rq:queue:echo:intermediate", 0, -1) == []
    entries = client.xrevrange(keys.CHAT_LOG, count=50)
    (chat,) = [fields for _, fields in entries if fields[b"job"] == request.id.encode()]  # type: ignore
    assert chat[b"answer"] == b"one two three"
    assert json.loads(chat[b"messages"])[0]["content"][0]["text"] == "one two three"


def test_two_hundred_jobs_at_once_keep_to_themselves(service: Service) -> None:
    texts = [f"answer {n} of {uuid.uuid4()}" for n in range(200)]
    with ThreadPoolExecutor(50) as pool:
        told = list(pool.map(lambda text: answer(service, ask(service, text))[0], texts))
    assert told == texts


def test_max_tokens_and_stop_strings_end_an_answer(service: Service) -> None:
    text, end = answer(service, ask(service, "a b c d e", max_tokens=3))
    assert (text, end.finish_reason, end.usage.completion_tokens) == ("a b c", "length", 3)
    text, end = answer(service, ask(service, "a b c d e", stop=["c d"]))
    assert (text, end.finish_reason) == ("a b ", "stop")


def test_the_engine_sees_the_pictures_bytes(service: Service, red_circle: bytes) -> None:
    sha256 = service.pictures.add(red_circle)
    request = service.submit("echo", say("look", sha256), SamplingParams())
    assert sha256[:8] in answer(service, request)[0]


def test_a_picture_that_vanished_fails_its_job_only(
    service: Service, echo_stack: Stack, red_circle: bytes
) -> None:
    sha256 = service.pictures.add(red_circle)
    echo_stack.redis.delete(keys.image(sha256))
    request = service.submit("echo", say("look", sha256), SamplingParams())
    events = [event for event in service.follow(request) if event]
    assert isinstance(events[-1], Failed)
    assert (events[-1].error.status, events[-1].error.code) == (400, "invalid_image")
    assert answer(service, ask(service, "still here"))[0] == "still here"


def test_a_job_that_names_a_foreign_function_is_dropped(
    service: Service, echo_stack: Stack
) -> None:
    queue = Queue("echo", connection=echo_stack.redis, serializer=JSONSerializer)
    marker = echo_stack.folder / "owned"
    job = queue.enqueue("os.system", f"touch {marker}")
    until(lambda: queue.get_job_position(job.id) is None, "the job is popped")
    assert answer(service, ask(service, "fine"))[0] == "fine"
    assert not marker.exists()
    assert echo_stack.redis.lrange("rq:queue:echo:intermediate", 0, -1) == []


def broker_status(stack: Stack) -> str:
    return subprocess.run(
        [sys.executable, "-m", "broker", "status"],
        env=stack.env | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_a_job_of_another_version_is_refused_and_the_next_one_served(
    service: Service, echo_stack: Stack
) -> None:
    worker = echo_stack.processes[0]
    worker.signal(signal.SIGSTOP)
    request = ask(service, "from tomorrow")
    record = json.loads(request.model_dump_json()) | {"field of tomorrow": 1}
    echo_stack.redis.hset(keys.job(request.id), "request", json.dumps(record))
    worker.signal(signal.SIGCONT)
    (failed,) = [e for e in service.follow(request) if isinstance(e, Failed | End)]
    assert isinstance(failed, Failed) and "another version" in failed.error.message
    assert answer(service, ask(service, "of today"))[0] == "of today"


def test_status_shows_the_worker(echo_stack: Stack) -> None:
    (info,) = registry.workers(echo_stack.redis)
    wanted = ("echo", info.id, "ready", "1/1 ready", "0/256", "tokens/s")

    def is_shown() -> bool:
        shown = broker_status(echo_stack)
        return all(word in shown for word in wanted)

    until(is_shown, "the worker is shown as one that has nothing to do")


def test_prompts_stay_out_of_the_log(service: Service, echo_stack: Stack) -> None:
    answer(service, ask(service, "a-very-private-thing"))
    assert all("a-very-private-thing" not in each.output for each in echo_stack.processes)


SLOW = "tokens_per_s=50&tokens=200"
"""Four seconds an answer: long enough that a test's event comes in the middle of it."""


@pytest.fixture
def slow(stack: Stack) -> Iterator[Service]:
    stack.slow_worker = stack.echo_worker(SLOW)  # type: ignore[attr-defined]
    made = Service(stack.settings())
    yield made
    made.close()


def test_a_cancelled_job_stops_within_one_step_and_frees_its_slot(
    stack: Stack, slow: Service
) -> None:
    request = ask(slow, "word")
    deltas(slow, request, 5)
    before = len(channel.read_log(stack.redis, request.id))
    slow.jobs.cancel(request.id)
    _, end = answer(slow, request)
    assert end.finish_reason == "cancelled"
    # One step may be under way, and one may have been published since `before` was counted.
    assert len(channel.read_log(stack.redis, request.id)) <= before + 3
    until(lambda: running(stack) == 0, "the slot is free")


def test_a_cancel_message_that_was_lost_is_found_by_the_pulse(stack: Stack, slow: Service) -> None:
    request = ask(slow, "word")
    deltas(slow, request, 2)
    stack.redis.hset(keys.job(request.id), "cancel", "1")
    assert answer(slow, request)[1].finish_reason == "cancelled"


def test_rubbish_among_the_commands_is_logged_and_survived(stack: Stack, slow: Service) -> None:
    for number, rubbish in enumerate([b"5", b"{}", b"\xff", b"[" * 9999], start=1):
        # A worker is ready a moment before it hears this channel; Redis counts who heard.
        until(
            lambda rubbish=rubbish: stack.redis.publish(keys.CONTROL, rubbish),  # type: ignore[misc]
            "the worker listens",
        )
        until(
            lambda number=number: stack.slow_worker.output.count("no command on") == number,  # type: ignore[attr-defined]
            "the log says so",
        )


def test_a_killed_workers_answers_go_on_in_another_worker(stack: Stack, slow: Service) -> None:
    requests = [ask(slow, f"job-{n}") for n in range(4)]
    for request in requests:
        deltas(slow, request, 3)
    stack.echo_worker(SLOW)
    stack.slow_worker.signal(signal.SIGKILL)  # type: ignore[attr-defined]
    for n, request in enumerate(requests):
        text, end = answer(slow, request)
        assert text == " ".join([f"job-{n}"] * 200)
        assert end.usage.completion_tokens == 201  # with the end mark
        claims = [e for e in channel.read_log(stack.redis, request.id) if isinstance(e, Claim)]
        assert len({claim.worker for claim in claims}) == 2


def test_a_paused_worker_that_wakes_up_cannot_write_into_a_job_it_lost(
    stack: Stack, slow: Service
) -> None:
    request = ask(slow, "word")
    deltas(slow, request, 3)
    stack.slow_worker.signal(signal.SIGSTOP)  # type: ignore[attr-defined]
    stack.echo_worker(SLOW)
    until(
        lambda: channel.read_log(stack.redis, request.id)[-1].id.attempt == 2,
        "another worker takes over",
    )
    stack.slow_worker.signal(signal.SIGCONT)  # type: ignore[attr-defined]
    until(lambda: "taken over" in stack.slow_worker.output, "the zombie notices")  # type: ignore
    text, _ = answer(slow, request)
    assert text == " ".join(["word"] * 200)


def test_sigterm_hands_a_running_job_over_at_once(stack: Stack, slow: Service) -> None:
    request = ask(slow, "word")
    deltas(slow, request, 3)
    stack.slow_worker.signal(signal.SIGTERM)  # type: ignore[attr-defined]
    assert stack.slow_worker.wait() == 0  # type: ignore[attr-defined]
    assert registry.workers(stack.redis) == []
    stack.echo_worker(SLOW)
    assert answer(slow, request)[0] == " ".join(["word"] * 200)


def test_the_worker_survives_a_redis_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("restart")
    with embedded_valkey(folder) as url:
        stack = Stack(url, folder)
        worker = stack.echo_worker("tokens_per_s=50&tokens=150")
        service = Service(stack.settings())
        request = ask(service, "word")
        deltas(service, request, 3)
    try:
        port = int(url.rpartition(":")[2].partition("/")[0])
        with embedded_valkey(folder, port):
            assert answer(service, request)[0] == " ".join(["word"] * 150)
            assert answer(service, ask(service, "again", max_tokens=2))[0] == "again again"
            assert worker.status is None
            assert until(lambda: stack.info(worker), "it is registered again").state == "ready"
            service.close()
            stack.stop()
    finally:
        stack.stop()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server here")
def test_real_redis_serves_as_well(
    tmp_path_factory: pytest.TempPathFactory, red_circle: bytes
) -> None:
    folder = tmp_path_factory.mktemp("real")
    with real_redis(folder) as url:
        stack = Stack(url, folder)
        service = Service(stack.settings())
        try:
            worker = stack.echo_worker(SLOW)
            sha256 = service.pictures.add(red_circle)
            look = service.submit("echo", say("look", sha256), SamplingParams(max_tokens=3))
            assert sha256[:8] in answer(service, look)[0]
            request = ask(service, "word")
            deltas(service, request, 3)
            worker.signal(signal.SIGKILL)
            stack.echo_worker(SLOW)
            assert answer(service, request)[0] == " ".join(["word"] * 200)
            stopped = ask(service, "word")
            deltas(service, stopped, 3)
            service.jobs.cancel(stopped.id)
            assert answer(service, stopped)[1].finish_reason == "cancelled"
        finally:
            service.close()
            stack.stop()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--engine", "echo", "--model-path", "echo?speed=3"], "speed"),
        (["--model-path", "/no/such/checkpoint"], "/no/such/checkpoint"),
    ],
)
def test_a_wrong_flag_ends_the_worker_with_one_sentence(
    echo_stack: Stack, flags: list[str], sentence: str
) -> None:
    worker = echo_stack.start("worker", "workers", *flags)
    assert worker.wait(60) == 1
    assert sentence in worker.output
    assert "Traceback" not in worker.output
    shown = broker_status(echo_stack)
    assert f"of {flags[-1].rpartition('/')[2].partition('?')[0]} on" in shown
    assert sentence in shown.partition("failed: ")[2]
