"""Clients that leave, come back, repeat themselves or come twice: each text is exact, once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from broker import jobs, keys, registry
from broker.channel import read_log
from broker.events import Claim, Delta, End, Event
from broker.queues import queue_key
from frontend.api.client import STALL_S
from tests.chaos.cases import Case
from tests.chaos.streams import Client
from tests.chaos.test_workers import busiest, nothing_is_left
from tests.frontend.clients import body, post
from tests.stack import Process, Stack, until

TOKENS = 150
SPEED = 100
ECHO = f"tokens_per_s={SPEED}&tokens={TOKENS}"
EXPECTED = " ".join(["word"] * TOKENS)
STREAMS = 6
WANTED = {"text": "word", "on_disconnect": "grace:60"}

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def apis(echo_stack: Stack) -> list[str]:
    """Two processes on one Redis."""
    return [echo_stack.api(), echo_stack.api()]


@pytest.fixture(scope="module")
def worker(echo_stack: Stack) -> Process:
    return echo_stack.echo_worker(ECHO, **{"model-name": "words"})


def check(stack: Stack, model: str, case: Case, workers: int = 1) -> None:
    """All texts are exact, and no slot, lease or job is left over."""
    assert case.all_exact, case.line()
    until(lambda: nothing_is_left(stack, model), "RQ's records are closed", 40)
    until(lambda: free_workers(stack, model) == workers, "all slots are free")


def free_workers(stack: Stack, model: str) -> int:
    infos = [info for info in registry.workers(stack.redis) if info.model == model]
    return sum(info.running == 0 for info in infos)


def test_a_key_that_comes_twenty_times_at_once(
    echo_stack: Stack, apis: list[str], worker: Process, case: Case, runs: int
) -> None:
    """Every fifth client leaves in the middle, which the others must not feel."""
    before = echo_stack.redis.xlen(keys.CHAT_LOG)
    wanted = {"text": "word", "model": "words"}
    for run in range(runs):
        key = f"{case.name} {run}"
        clients = [Client([apis[place % 2]], wanted, key=key) for place in range(20)]
        staying = [client for place, client in enumerate(clients) if place % 5]
        for client in clients[::5]:
            client.until_tokens(30)
            client.leave()
        case.note([each.finish() for each in staying], EXPECTED, time.monotonic())
        assert {each.job_id for each in clients} == {clients[0].job_id}
        assert [each.chunks for each in staying] == [staying[0].chunks] * len(staying)
    until(lambda: echo_stack.redis.xlen(keys.CHAT_LOG) >= before + runs, "all are logged")
    assert echo_stack.redis.xlen(keys.CHAT_LOG) == before + runs
    check(echo_stack, "words", case)


def test_reconnecting_ten_times_between_two_processes(
    echo_stack: Stack, apis: list[str], worker: Process, case: Case, runs: int
) -> None:
    dice = random.Random(f"{case.name} {runs}")
    for _ in range(runs):
        clients = [
            Client(apis, WANTED | {"model": "words"}, cuts=dice.sample(range(1, TOKENS - 5), 10))
            for _ in range(STREAMS)
        ]
        case.note([each.finish() for each in clients], EXPECTED, time.monotonic())
        assert [each.connections for each in clients] == [11] * STREAMS
    check(echo_stack, "words", case)


def test_two_readers_of_one_job(
    echo_stack: Stack, apis: list[str], worker: Process, case: Case, runs: int
) -> None:
    """The second comes at any moment, at the other process; then the first reloads its page."""
    dice = random.Random(f"{case.name} {runs}")
    for _ in range(runs):
        readers: list[Client] = []
        for _ in range(STREAMS):
            first = Client(apis, WANTED | {"model": "words"})
            first.until_tokens(dice.randrange(1, TOKENS // 2))
            second = Client(apis[::-1], {}, job_id=first.job_id)
            second.until_tokens(dice.randrange(1, TOKENS // 2))
            first.leave()
            readers += second, Client(apis, {}, job_id=first.job_id)
        case.note([each.finish() for each in readers], EXPECTED, time.monotonic())
        for second, again in zip(readers[::2], readers[1::2], strict=True):
            assert second.chunks == again.chunks
    check(echo_stack, "words", case)


def by_delete(stack: Stack, address: str, client: Client) -> None:
    assert httpx.delete(f"{address}/v1/jobs/{client.job_id}").status_code == 200


def by_closing(stack: Stack, address: str, client: Client) -> None:
    client.leave()


def by_command(stack: Stack, address: str, client: Client) -> None:
    command = [sys.executable, "-m", "broker", "cancel", client.job_id]
    assert subprocess.run(command, env=stack.env).returncode == 0


@pytest.fixture
def single(echo_stack: Stack) -> Iterator[Process]:
    """A worker of one slot, whose answers take a minute."""
    flags = {"model-name": "single", "limit-model-concurrency": "1"}
    process = echo_stack.echo_worker(f"tokens_per_s={SPEED}&tokens={60 * SPEED}", **flags)
    yield process
    process.stop()


@pytest.mark.parametrize("cancel", [by_delete, by_closing, by_command])
def test_cancelled_at_token_50(
    echo_stack: Stack,
    apis: list[str],
    single: Process,
    case: Case,
    runs: int,
    cancel: Callable[[Stack, str, Client], None],
) -> None:
    """The only slot goes to the next one, which waits for it, at once."""
    logs: dict[str, list[Event]] = {}
    waiting = Client(apis, {"text": "word", "model": "single"})
    for _ in range(runs):
        client = waiting
        client.until_tokens(50)
        waiting = Client(apis, {"text": "word", "model": "single"})
        until(lambda: echo_stack.redis.llen(queue_key("single")) == 1, "the next one waits")
        cancelled_s = time.monotonic()
        cancel(echo_stack, apis[1], client)
        told_s, so_far = time.monotonic(), client.told.tokens
        waiting.until_tokens(1)
        assert time.monotonic() - told_s <= 1.0
        case.recoveries_s.append(time.monotonic() - cancelled_s)
        if cancel is not by_closing:
            client.finish()
        logs[client.job_id] = log = read_log(echo_stack.redis, client.job_id)
        assert cancelled(log).usage.completion_tokens - so_far <= SPEED // 2
        assert is_cancelled(echo_stack, client)
        read = len(client.told.text) if cancel is by_closing else None
        case.note([client.told], text_of(log)[:read], told_s)
    waiting.leave()
    assert {job_id: read_log(echo_stack.redis, job_id) for job_id in logs} == logs
    check(echo_stack, "single", case)


def cancelled(log: Sequence[Event]) -> End:
    """The last event of a log, which says that the job was cancelled."""
    end = log[-1]
    assert isinstance(end, End) and end.finish_reason == "cancelled"
    return end


def worker_of(stack: Stack, client: Client) -> str:
    claims = [e for e in read_log(stack.redis, client.job_id) if isinstance(e, Claim)]
    return claims[-1].worker


def text_of(log: Sequence[Event]) -> str:
    return "".join(event.text for event in log if isinstance(event, Delta | End))


def test_cancelled_while_its_worker_is_frozen(stack: Stack, case: Case, runs: int) -> None:
    """Another worker ends the jobs; what the frozen one says when it wakes up is refused."""
    api = stack.api()
    echo = f"tokens_per_s={SPEED}&tokens={60 * SPEED}"
    workers = [stack.echo_worker(echo), stack.echo_worker(echo)]
    for _ in range(runs):
        clients = [Client([api], {"text": "word", "model": "echo"}) for _ in range(STREAMS)]
        for client in clients:
            client.until_tokens(50)
        frozen = busiest(stack, workers, [worker_of(stack, client) for client in clients])
        frozen.signal(signal.SIGSTOP)
        struck_s = time.monotonic()
        for client in clients:
            by_delete(stack, api, client)
        case.runs += 1
        logs = {}
        for client in clients:
            told = client.finish()
            logs[client.job_id] = log = read_log(stack.redis, client.job_id)
            cancelled(log)
            assert is_cancelled(stack, client)
            case.count(told, text_of(log))
            case.recoveries_s.append(told.silence_after(struck_s))
        frozen.signal(signal.SIGCONT)
        until(lambda: free_workers(stack, "echo") == 2, "the frozen one has noticed")
        assert {job_id: read_log(stack.redis, job_id) for job_id in logs} == logs
    check(stack, "echo", case, workers=2)


def test_clients_whose_network_is_gone(stack: Stack, case: Case, runs: int) -> None:
    """They say nothing any more, not even that they left; the others go on."""
    stack.echo_worker("tokens_per_s=20&tokens=800", **{"limit-model-concurrency": "64"})
    api = stack.api()
    gone = [Client([api], {"text": "word", "model": "echo"}) for _ in range(runs)]
    for client in gone:
        client.until_tokens(2)
        client.vanish()
    vanished_s = time.monotonic()
    wanted = {"text": "word", "model": "echo", "max_tokens": 300}
    staying = [Client([api], wanted) for _ in range(STREAMS)]
    case.note([each.finish() for each in staying], " ".join(["word"] * 300), vanished_s)
    until(lambda: all(is_cancelled(stack, each) for each in gone), "their jobs are cancelled")
    case.recoveries_s.append(time.monotonic() - vanished_s)
    for client in gone:
        client.leave()
    assert case.worst_s <= STALL_S + 4, case.line()
    check(stack, "echo", case)


def is_cancelled(stack: Stack, client: Client) -> bool:
    return jobs.read(stack.redis, client.job_id).state == "cancelled"


def whole(apis: Sequence[str], key: str) -> str:
    """Ask for a whole answer at one process after the other, until one gives it."""
    wanted = body("word", model="echo", on_disconnect="grace:60")
    for address in apis:
        try:
            reply = post(address, wanted, **{"Idempotency-Key": key})
        except httpx.TransportError:
            continue
        if reply.status_code == 200:
            return str(reply.json()["choices"][0]["message"]["content"])
        assert reply.json()["error"]["code"] == "server_stopping"
    raise AssertionError("no process gives the answer")


def test_an_api_process_is_told_to_stop_under_load(stack: Stack, case: Case, runs: int) -> None:
    """Streams come back to the other one; whole answers are asked for again with their key."""
    dice = random.Random(f"{case.name} {runs}")
    stack.echo_worker(ECHO)
    apis, processes = [], []
    for _ in range(2):
        apis.append(stack.api())
        processes.append(stack.processes[-1])
    for run in range(runs):
        stopped = run % 2
        order = [apis[stopped], apis[1 - stopped]]
        wanted = WANTED | {"model": "echo"}
        touched = [Client(order, wanted) for _ in range(STREAMS)]
        spared = [Client(order[::-1], wanted) for _ in range(STREAMS)]
        with ThreadPoolExecutor(STREAMS) as pool:
            asked = [pool.submit(whole, order, f"{run} {place}") for place in range(STREAMS)]
            for client in touched + spared:
                client.until_tokens(dice.randrange(1, TOKENS - 60))
            stopped_s = time.monotonic()
            processes[stopped].signal(signal.SIGTERM)
            assert [each.result() for each in asked] == [EXPECTED] * STREAMS
        case.note([each.finish() for each in touched + spared], EXPECTED, stopped_s)
        assert [each.connections for each in touched + spared] == [2] * STREAMS + [1] * STREAMS
        assert processes[stopped].wait() == 0
        apis[stopped] = stack.api()
        processes[stopped] = stack.processes[-1]
    assert case.worst_s < 5, case.line()
    check(stack, "echo", case)
