"""The embedded server as `python -m broker serve` runs it: killed, told to end, with bad data."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.chaos.answers import Answers
from tests.chaos.cases import Case
from tests.stack import Process, Stack, free_port, until

TEXT = " ".join(f"w{place}" for place in range(100))


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def stack(tmp_path: Path, port: int) -> Iterator[Stack]:
    """A stack whose Redis is the embedded server's, which the test starts."""
    made = Stack(f"redis://127.0.0.1:{port}/0", tmp_path)
    made.env["HELIOGRAPH_REDIS_PORT"] = str(port)
    yield made
    made.stop()


def keeper_of(stack: Stack) -> Process:
    """`python -m broker serve`; REDIS_URL is for the others."""
    return stack.start("serve", "broker", "serve", REDIS_URL="")


def valkey_of(keeper: Process, but: int = 0) -> psutil.Process:
    """The server that runs now."""

    def found() -> psutil.Process | None:
        assert keeper.status is None, keeper.output
        children = psutil.Process(keeper.pid).children()
        return next((each for each in children if each.pid != but), None)

    return until(found, "Valkey runs")  # type: ignore[return-value]


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def answers(stack: Stack) -> bool:
    try:
        return bool(stack.redis.ping())
    except redis.ConnectionError:
        return False


def test_killed_in_mid_answer_it_comes_back_and_answers_go_on(stack: Stack, case: Case) -> None:
    keeper = keeper_of(stack)
    valkey = valkey_of(keeper)
    worker = stack.echo_worker("tokens_per_s=25")
    streams = Answers(stack.api(), [TEXT] * 10)
    for least in (10, 50):
        streams.until_tokens(least)
        struck_s = time.monotonic()
        valkey.kill()
        valkey = valkey_of(keeper, but=valkey.pid)
    case.note(streams.finish(), TEXT, struck_s)
    assert (case.exact, case.duplicated, case.lost) == (10, 0, 0), case.line()
    assert case.worst_s < 5.0, case.line()
    assert keeper.output.count("Valkey broke (status -9)") == 2
    assert worker.status is None


def test_told_to_end_it_ends_in_order(stack: Stack) -> None:
    keeper = keeper_of(stack)
    valkey = valkey_of(keeper)
    until(lambda: answers(stack), "it answers")
    stack.redis.set("kept", "yes")
    keeper.signal(signal.SIGTERM)
    assert keeper.wait() == 0
    assert is_gone(valkey)
    again = keeper_of(stack)
    valkey = valkey_of(again)
    until(lambda: answers(stack), "it answers")
    assert stack.redis.get("kept") == b"yes"
    assert stack.redis.config_get("append*")["appendfsync"] == "everysec"


def test_it_ends_with_its_keeper(stack: Stack) -> None:
    keeper = keeper_of(stack)
    valkey = valkey_of(keeper)
    until(lambda: answers(stack), "it answers")
    keeper.signal(signal.SIGKILL)
    until(lambda: is_gone(valkey), "it ended")


def test_what_it_cannot_read_ends_it_with_the_place_of_its_log(stack: Stack) -> None:
    folder = stack.folder / "data" / "redis" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("rubbish\n")
    keeper = keeper_of(stack)
    assert keeper.wait() == 1
    log = stack.folder / "data" / "redis" / "valkey.log"
    assert f"Valkey ended by itself (status 1); {log} says why" in keeper.output
    assert "rubbish" in log.read_text()
    assert "Traceback" not in keeper.output
