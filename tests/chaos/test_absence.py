"""What begins or ends while Redis is away: it comes to pass when Redis is back."""

from __future__ import annotations

import psutil
import pytest

from broker import jobs, keys
from tests.chaos.redis_server import RedisServer
from tests.chaos.streams import Client
from tests.chaos.test_redis import answers, idle, wait
from tests.chaos.test_redis import server as server
from tests.chaos.test_redis import stack as stack
from tests.stack import Stack, until

TOKENS_PER_S = 25
LONG = f"tokens_per_s={TOKENS_PER_S}&tokens=1500"
"""Answers of a minute."""

NOTICED_S = keys.READER_TTL_S + 3.0
"""Leases run out, then the janitor comes by."""

pytestmark = pytest.mark.timeout(300)


def is_cancelled(stack: Stack, client: Client) -> bool:
    return jobs.read(stack.redis, client.job_id).state == "cancelled"


def test_processes_that_start(server: RedisServer, stack: Stack) -> None:
    """As a worker that its supervisor starts again: none ends, and all serve."""
    server.kill()
    worker = stack.worker("--engine", "echo", "--model-path", "echo", wait=False)
    address = stack.api()
    until(lambda: "echo is ready" in worker.output, f"the worker has started:\n{worker.output}")
    server.start()
    until(lambda: answers(address), f"both serve:\n{worker.output}")
    assert all("Traceback" not in process.output for process in stack.processes)


def test_a_client_that_leaves(server: RedisServer, stack: Stack) -> None:
    """Its process could not tell Redis at that moment, and does so as soon as it can."""
    stack.echo_worker(LONG)
    client = Client([stack.api()], {"text": "word", "model": "echo"})
    client.until_tokens(5)
    server.kill()
    client.leave()
    until(lambda: "Redis is told later" in stack.processes[-1].output, "the process has tried")
    server.start()
    until(lambda: is_cancelled(stack, client), "its job is cancelled", NOTICED_S)
    until(lambda: idle(stack), "nothing is left of it")


def kill_api(stack: Stack, place: int) -> None:
    """Kill an API process and the one that serves for it."""
    master = psutil.Process(stack.processes[place].pid)
    for process in (*master.children(), master):
        process.kill()


def test_a_client_that_comes_back_from_a_dead_process_and_leaves(stack: Stack) -> None:
    """The dead process counts as a reader for some seconds, and nobody leaves in its name."""
    apis = [stack.api(), stack.api()]
    stack.echo_worker(LONG)
    client = Client(apis, {"text": "word", "model": "echo"})
    client.until_tokens(5)
    kill_api(stack, 0)
    client.until_tokens(client.told.tokens + 5)
    assert client.connections == 2
    client.leave()
    until(lambda: is_cancelled(stack, client), "its job is cancelled", NOTICED_S)
    until(lambda: idle(stack), "nothing is left of it")


def test_a_client_that_stays_when_another_leaves(server: RedisServer, stack: Stack) -> None:
    """Both leases ran out meanwhile; the one who stays has time to renew its own."""
    stack.echo_worker(LONG)
    apis = [stack.api(), stack.api()]
    leaving = Client(apis[:1], {"text": "word", "model": "echo"})
    leaving.until_tokens(5)
    staying = Client(apis[1:], {}, job_id=leaving.job_id)
    staying.until_tokens(5)
    server.kill()
    leaving.leave()
    wait(keys.READER_TTL_S + 1.0)
    server.start()
    staying.until_tokens(staying.told.tokens + int(2 * NOTICED_S * TOKENS_PER_S))
    assert not is_cancelled(stack, staying)
    staying.leave()
    until(lambda: is_cancelled(stack, staying), "its job is cancelled", NOTICED_S)
    assert staying.told.duplicated == staying.told.lost == 0
