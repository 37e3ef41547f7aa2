"""What becomes of a job when its client leaves: `on_disconnect`, on two API processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from broker import keys
from tests.frontend.clients import Connection, body, post
from tests.frontend.test_api_jobs import chunks, events, job_of, look
from tests.stack import Process, Stack, until

SPEED = 20
LATEST_S = 12.0
"""From the end of a grace to the cancellation at the latest: lease and janitor, machine busy."""


@pytest.fixture(scope="module")
def slow(echo_stack: Stack) -> Process:
    options = f"tokens_per_s={SPEED}&tokens={60 * SPEED}"
    return echo_stack.echo_worker(options, **{"model-name": "slow"})


@pytest.fixture(scope="module")
def apis(echo_stack: Stack) -> tuple[str, str]:
    """Two processes on one Redis."""
    return echo_stack.api(), echo_stack.api()


@pytest.fixture
def doomed(echo_stack: Stack) -> Iterator[tuple[str, Process]]:
    """An API process that the test may kill."""
    address = echo_stack.api()
    yield address, echo_stack.processes[-1]


def begin(client: Connection, rule: str, max_tokens: int = 60 * SPEED) -> tuple[str, list[str]]:
    """Send a request and read up to its third event; return the job and the lines read."""
    client.send(body("word", model="slow", stream=True, max_tokens=max_tokens, on_disconnect=rule))
    lines = []
    for line in client.lines():
        lines.append(line)
        if lines[-2:-1] == ["id: 1-3"]:
            return job_of("".join(lines)), lines
    raise AssertionError("the stream broke off")


def state(address: str, job_id: str) -> str:
    return str(look(address, job_id)["state"])


def test_a_detached_answer_goes_on_and_is_kept(apis: tuple[str, str], slow: Process) -> None:
    with Connection(apis[0]) as client:
        job_id, _ = begin(client, "detach", 2 * SPEED)
    until(lambda: state(apis[1], job_id) == "done", "it has ended")
    assert "".join(data for _, data in events(apis[1], job_id)).count('"content":"') >= 2 * SPEED


@pytest.mark.parametrize("rule", ["detach", "grace:60"])
def test_a_cut_stream_goes_on_at_another_process_without_gap_or_repeat(
    apis: tuple[str, str], slow: Process, rule: str
) -> None:
    with Connection(apis[0]) as client:
        job_id, lines = begin(client, rule, 3 * SPEED)
    told = chunks("\n".join(lines))
    told += events(apis[1], job_id, told[-1][0])
    assert told == events(apis[0], job_id)
    marks = [mark for mark, data in told if '"content":"' in data and mark]
    assert marks == sorted(set(marks), key=lambda mark: int(mark.split("-")[1]))
    assert '"finish_reason":"length"' in told[-2][1]


def test_grace_cancels_after_its_time_and_not_before(apis: tuple[str, str], slow: Process) -> None:
    with Connection(apis[0]) as client:
        job_id, _ = begin(client, "grace:2")
        left_s = time.monotonic()
    until(lambda: state(apis[1], job_id) == "cancelled", "it is cancelled")
    assert 2.0 <= time.monotonic() - left_s <= 2.0 + LATEST_S


def test_who_comes_back_within_the_grace_keeps_the_answer(
    apis: tuple[str, str], slow: Process
) -> None:
    with Connection(apis[0]) as client:  # the rest takes longer than grace and lease together
        job_id, lines = begin(client, "grace:1", 9 * SPEED)
    told = chunks("\n".join(lines))
    told += events(apis[1], job_id, told[-1][0])
    assert told == events(apis[0], job_id)
    assert '"finish_reason":"length"' in told[-2][1]


def test_grace_holds_when_the_api_process_of_the_client_is_killed(
    echo_stack: Stack, apis: tuple[str, str], slow: Process, doomed: tuple[str, Process]
) -> None:
    address, process = doomed
    with Connection(address) as first, Connection(address) as second:
        left, _ = begin(first, "grace:3")
        kept, lines = begin(second, "grace:3", 11 * SPEED)
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.signal(signal.SIGKILL)
    seconds, microseconds = echo_stack.redis.time()  # type: ignore[misc]
    deadline_s = echo_stack.redis.zscore(keys.DEADLINES, left)
    assert isinstance(deadline_s, float)
    assert 3.0 <= deadline_s - (seconds + microseconds / 1e6) <= 3.0 + keys.READER_TTL_S
    told = chunks("\n".join(lines))
    told += events(apis[1], kept, told[-1][0])
    assert told == events(apis[1], kept)
    assert '"finish_reason":"length"' in told[-2][1]
    until(lambda: state(apis[1], left) == "cancelled", "it is cancelled", LATEST_S)


def test_an_onlooker_that_leaves_cancels_nothing(apis: tuple[str, str], slow: Process) -> None:
    with Connection(apis[0]) as client:
        job_id, lines = begin(client, "cancel", 2 * SPEED)
        with httpx.stream("GET", f"{apis[1]}/v1/jobs/{job_id}/events") as onlooker:
            next(line for line in onlooker.iter_lines() if line == "id: 1-3")
        lines += client.lines_until_done()
    assert '"finish_reason":"length"' in "".join(lines)
    assert state(apis[1], job_id) == "done"


@pytest.mark.parametrize("rule", ["", "stay", "grace", "grace:0", "grace:3601", "grace:1.5"])
def test_a_rule_that_does_not_exist_is_refused(apis: tuple[str, str], rule: str) -> None:
    error = post(apis[0], body(on_disconnect=rule)).json()["error"]
    assert error["param"] == "on_disconnect"
    assert error["message"] == (
        "on_disconnect: it must be 'cancel', 'detach' or 'grace:SECONDS' with 1 to 3600 seconds; "
        f"{rule!r} was sent."
    )
