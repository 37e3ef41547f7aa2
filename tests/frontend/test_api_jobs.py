"""Jobs over HTTP on two API processes: looked at, come back to, cancelled, submitted once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from broker import keys, queues
from tests.frontend.clients import CHAT, Connection, body, post
from tests.stack import Process, Stack, until

WORDS = "one two three four five six"
SPEED = 20


@pytest.fixture(scope="module")
def apis(echo_stack: Stack) -> tuple[str, str]:
    """Two processes on one Redis."""
    return echo_stack.api(), echo_stack.api()


@pytest.fixture(scope="module")
def slow(echo_stack: Stack) -> Process:
    """A worker of one slot whose answers take 30 seconds."""
    options = f"tokens_per_s={SPEED}&tokens={30 * SPEED}"
    return echo_stack.echo_worker(options, **{"limit-model-concurrency": "1", "model-name": "slow"})


@pytest.fixture
def busy(apis: tuple[str, str], slow: Process) -> Iterator[str]:
    """A job that takes the slow worker's slot, read by nobody."""
    with Connection(apis[0]) as client:
        client.send(body("word", model="slow", stream=True, on_disconnect="detach"))
        job_id = job_of(client.wait_for("data: "))
        client.wait_for("id: 1-1")
    yield job_id
    httpx.delete(f"{apis[0]}/v1/jobs/{job_id}")
    until(lambda: look(apis[0], job_id)["state"] == "cancelled", "the slot is free")


Chunk = tuple[str, str]


def chunks(text: str) -> list[Chunk]:
    """(event id or "", data) of a stream; comments are left out."""
    found, mark = [], ""
    for line in text.splitlines():
        if line.startswith("id: "):
            mark = line.removeprefix("id: ")
        elif line.startswith("data: "):
            found.append((mark, line.removeprefix("data: ")))
            mark = ""
    return found


def job_of(chunk: str) -> str:
    return chunk.partition("chatcmpl-")[2].partition('"')[0]


def look(address: str, job_id: str) -> Any:
    return httpx.get(f"{address}/v1/jobs/{job_id}").json()


def events(address: str, job_id: str, after: str | None = None, query: str = "") -> list[Chunk]:
    headers = {} if after is None else {"Last-Event-ID": after}
    url = f"{address}/v1/jobs/{job_id}/events{query}"
    response = httpx.get(url, headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    return chunks(response.text)


def answered(address: str, **fields: Any) -> list[Chunk]:
    """The chunks of a whole streamed answer."""
    usage = {"include_usage": True}
    response = post(address, body(WORDS, stream=True, stream_options=usage, **fields))
    assert response.status_code == 200
    return chunks(response.text)


def test_a_finished_answer_is_replayed_byte_for_byte_on_any_process(apis: tuple[str, str]) -> None:
    told = answered(apis[0])
    job_id = job_of(told[0][1])
    for address in apis:
        assert events(address, job_id, query="?include_usage=true") == told
        assert events(address, f"chatcmpl-{job_id}", query="?include_usage=true") == told
    without = events(apis[1], job_id)
    assert [mark for mark, _ in without] == [mark for mark, _ in told[:-2]] + [""]
    assert "usage" not in without[-2][1]


def test_resuming_at_every_event_gives_exactly_the_rest(
    apis: tuple[str, str], slow: Process
) -> None:
    told = answered(apis[0], model="slow", max_tokens=12)
    job_id = job_of(told[0][1])
    last = told[-2][0]
    marks = [mark for mark, _ in told if mark not in ("", last)]
    assert len(marks) >= 10
    for mark in marks:
        rest = told[[place for place, (each, _) in enumerate(told) if each == mark][-1] + 1 :]
        assert events(apis[1], job_id, mark, "?include_usage=true") == rest
        assert events(apis[1], job_id, query=f"?include_usage=true&after={mark}") == rest


def test_after_the_last_event_the_end_is_told_again_without_text(apis: tuple[str, str]) -> None:
    told = answered(apis[0])
    assert events(apis[1], job_of(told[0][1]), told[-2][0], "?include_usage=true") == told[-3:]


@pytest.mark.parametrize("said", ["", "1", "1-", "-1", "a-b", "1-2-3", "+1-2", "1_0-1", "9" * 40])
def test_a_malformed_event_id_is_refused(apis: tuple[str, str], said: str) -> None:
    job_id = job_of(answered(apis[0])[0][1])
    url = f"{apis[0]}/v1/jobs/{job_id}/events"
    for response in (
        httpx.get(url, headers={"Last-Event-ID": said}),
        httpx.get(url, params={"after": said}),
    ):
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "invalid_request")
        assert error["message"].endswith(f"like 1-17; {said[:40]!r} was sent.")


def test_an_event_that_has_not_come_yet_is_refused(apis: tuple[str, str], busy: str) -> None:
    response = httpx.get(f"{apis[0]}/v1/jobs/{busy}/events", headers={"Last-Event-ID": "1-9999"})
    assert response.status_code == 400
    assert "has not come to event 1-9999 yet" in response.json()["error"]["message"]


def test_an_unknown_job_is_not_found(apis: tuple[str, str]) -> None:
    url = f"{apis[0]}/v1/jobs/nobody"
    for response in (httpx.get(url), httpx.delete(url), httpx.get(f"{url}/events")):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "job_not_found"


def test_an_answer_whose_log_has_expired_is_gone(echo_stack: Stack, apis: tuple[str, str]) -> None:
    job_id = job_of(answered(apis[0])[0][1])
    echo_stack.redis.delete(keys.events(job_id))
    for after in ("", "?after=1-2"):
        response = httpx.get(f"{apis[0]}/v1/jobs/{job_id}/events{after}")
        assert (response.status_code, response.json()["error"]["code"]) == (410, "answer_expired")
    assert look(apis[0], job_id)["state"] == "done"


def test_a_job_is_seen_waiting_and_running_and_done(
    echo_stack: Stack, apis: tuple[str, str], slow: Process, busy: str
) -> None:
    with Connection(apis[0]) as client:
        client.send(body("word", model="slow", max_tokens=2, on_disconnect="detach"))
        queue = queues.queue_key("slow")
        (raw,) = until(lambda: echo_stack.redis.lrange(queue, 0, -1), "it waits")
        waiting = look(apis[1], raw.decode())
        assert waiting == {
            "id": raw.decode(),
            "object": "job",
            "model": "slow",
            "state": "queued",
            "worker": None,
            "attempt": 0,
            "created": waiting["created"],
            "queue_position": 0,
            "eta_s": waiting["eta_s"],
            "on_disconnect": "detach",
        }
        info = echo_stack.info(slow)
        assert info is not None
        running = look(apis[1], busy)
        assert (running["state"], running["worker"]) == ("running", info.id)
        assert (running["attempt"], running["queue_position"]) == (1, None)
        assert httpx.delete(f"{apis[1]}/v1/jobs/{busy}").status_code == 200
        assert client.body()["usage"]["completion_tokens"] == 2
    assert look(apis[1], raw.decode())["state"] == "done"


def test_delete_frees_the_slot_within_a_step(
    echo_stack: Stack, apis: tuple[str, str], slow: Process, busy: str
) -> None:
    before = int(events_so_far(echo_stack, busy).split("-")[1])
    assert httpx.delete(f"{apis[1]}/v1/jobs/chatcmpl-{busy}").json()["id"] == busy
    until(lambda: look(apis[0], busy)["state"] == "cancelled", "it has ended", 2)
    assert int(events_so_far(echo_stack, busy).split("-")[1]) - before <= SPEED // 2
    assert httpx.delete(f"{apis[1]}/v1/jobs/{busy}").json()["state"] == "cancelled"


def events_so_far(stack: Stack, job_id: str) -> str:
    entries: Any = stack.redis.xrevrange(keys.events(job_id), count=1)
    return str(entries[0][0].decode())


def test_delete_takes_a_waiting_job_out_at_once(
    echo_stack: Stack, apis: tuple[str, str], busy: str
) -> None:
    queue = queues.queue_key("slow")
    with Connection(apis[0]) as client:
        client.send(body("word", model="slow", stream=True))
        (raw,) = until(lambda: echo_stack.redis.lrange(queue, 0, -1), "it waits")
        gone = httpx.delete(f"{apis[1]}/v1/jobs/{raw.decode()}").json()
        assert (gone["state"], gone["queue_position"]) == ("cancelled", None)
        assert echo_stack.redis.llen(queue) == 0
        assert '"finish_reason":"stop"' in "".join(client.lines_until_done())


def test_the_command_line_cancels_a_job(
    echo_stack: Stack, apis: tuple[str, str], busy: str
) -> None:
    def run(job: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "broker", "cancel", job]
        return subprocess.run(command, env=echo_stack.env, capture_output=True, text=True)

    assert run(f"chatcmpl-{busy}").returncode == 0
    until(lambda: look(apis[0], busy)["state"] == "cancelled", "it has ended", 2)
    unknown = run("nobody")
    assert unknown.returncode == 1
    assert unknown.stderr == ("heliograph: job nobody is unknown here, or its record has expired\n")


KEY = {"Idempotency-Key": "order 17"}


def test_the_same_key_twenty_times_at_once_starts_one_job(
    echo_stack: Stack, apis: tuple[str, str]
) -> None:
    before = echo_stack.redis.xlen(keys.CHAT_LOG)
    wanted = body(WORDS)
    replies: list[Any] = []
    gate = threading.Barrier(20)

    def ask(place: int) -> None:
        gate.wait()
        reply = post(apis[place % 2], wanted, **{"Idempotency-Key": "all at once"})
        replies.append(reply.json())

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [replies[0]] * 20
    assert replies[0]["choices"][0]["message"]["content"] == WORDS
    until(lambda: echo_stack.redis.xlen(keys.CHAT_LOG) > before, "the answer is logged")
    assert echo_stack.redis.xlen(keys.CHAT_LOG) == before + 1


def test_a_repeated_request_reads_the_finished_answer_and_a_changed_one_is_refused(
    apis: tuple[str, str],
) -> None:
    wanted = body(WORDS)
    first = post(apis[0], wanted, **KEY)
    assert post(apis[1], wanted, **KEY).json() == first.json()
    changed = post(apis[1], body("something else"), **KEY)
    assert changed.status_code == 422
    assert changed.json()["error"]["code"] == "idempotency_key_reused"
    assert post(apis[1], wanted).json()["id"] != first.json()["id"]


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_of_a_wrong_length_is_refused(apis: tuple[str, str], key: str) -> None:
    reply = post(apis[0], body(), **{"Idempotency-Key": key})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "Idempotency-Key"


def test_a_key_expires_with_the_record_of_its_job(echo_stack: Stack, apis: tuple[str, str]) -> None:
    wanted = body(WORDS)
    reply = post(apis[0], wanted, **{"Idempotency-Key": "for a day"}).json()
    (name,) = (
        name
        for name in echo_stack.redis.scan_iter(keys.idempotency("*"))
        if reply["id"].removeprefix("chatcmpl-") in str(echo_stack.redis.get(name))
    )
    record = keys.job(reply["id"].removeprefix("chatcmpl-"))
    assert echo_stack.redis.expiretime(name) == echo_stack.redis.expiretime(record)
    echo_stack.redis.delete(keys.events(reply["id"].removeprefix("chatcmpl-")))
    assert post(apis[1], wanted, **{"Idempotency-Key": "for a day"}).json()["id"] != reply["id"]


def test_a_key_whose_job_was_cancelled_starts_another(apis: tuple[str, str], slow: Process) -> None:
    wanted = body("word", model="slow", stream=True, max_tokens=40)
    headers = {"Idempotency-Key": "given up"}
    with httpx.stream("POST", apis[0] + CHAT, json=wanted, headers=headers) as response:
        first = job_of(next(line for line in response.iter_lines() if "chatcmpl" in line))
    until(lambda: look(apis[0], first)["state"] == "cancelled", "it has ended")
    told = chunks(post(apis[1], wanted, **headers).text)
    assert job_of(told[0][1]) != first
    assert '"finish_reason":"length"' in told[-2][1]


def test_a_stalled_first_connection_does_not_cancel_under_the_second(
    apis: tuple[str, str], slow: Process
) -> None:
    wanted = body("word", model="slow", stream=True, max_tokens=40)
    headers = {"Idempotency-Key": "twice"}
    with httpx.stream("POST", apis[0] + CHAT, json=wanted, headers=headers) as response:
        lines = response.iter_lines()
        first = job_of(next(line for line in lines if "chatcmpl" in line))
        next(line for line in lines if line == "id: 1-2")
        second = httpx.stream("POST", apis[1] + CHAT, json=wanted, headers=headers, timeout=30)
        with second as reader:
            rest = reader.iter_lines()
            head = next(line for line in rest if "chatcmpl" in line)
            assert job_of(head) == first
            response.close()
            assert list(rest)[-2:] == ["data: [DONE]", ""]
    assert look(apis[0], first)["state"] == "done"
