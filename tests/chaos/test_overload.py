"""More requests than workers can answer: the surplus is refused at once and told when to return.

The load is open: requests are sent by the clock, whatever becomes of those before them. Each has a
word of its own, so that an answer that went to another client is seen.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
import pytest

from frontend.service import Service
from tests.asking import answer, ask
from tests.frontend.clients import CHAT, body
from tests.stack import Process, Stack, until

SLOTS = 4
TOKENS = 20
JOB_S = 0.5
CAPACITY = SLOTS / JOB_S
"""Jobs per second at best."""
QUEUE = 8
DEADLINE_S = 5
ECHO = f"tokens_per_s={TOKENS / JOB_S}&tokens={TOKENS}"
OVERLOAD = 5
LOAD_S = 6.0
CROWD = 40

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Reply:
    """What came of one request; `word` is what its answer is to consist of."""

    word: str
    status: int
    took_s: float
    retry_after: str
    text: str

    @property
    def is_exact(self) -> bool:
        return self.text == " ".join([self.word] * TOKENS)


@pytest.fixture
def address(stack: Stack) -> str:
    """An API before a worker whose speed is measured already."""
    stack.echo_worker(ECHO, **{"limit-model-concurrency": str(SLOTS)})
    service = Service(stack.settings())
    for request in [ask(service, "word") for _ in range(SLOTS)]:
        answer(service, request)
    until(lambda: service.fleet.models()[0].jobs_per_s, "the rate is measured")
    service.close()
    return stack.api(
        HELIOGRAPH_MAX_QUEUE_LENGTH=str(QUEUE), HELIOGRAPH_QUEUE_TIMEOUT_S=str(DEADLINE_S)
    )


async def send(client: httpx.AsyncClient, word: str) -> Reply:
    began_s = time.monotonic()
    response = await client.post(CHAT, json=body(word))
    took_s = time.monotonic() - began_s
    told = response.json()
    text = told["choices"][0]["message"]["content"] if response.status_code == 200 else ""
    retry_after = response.headers.get("retry-after", "")
    return Reply(word, response.status_code, took_s, retry_after, text)


def open_client(address: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    return httpx.AsyncClient(base_url=address, timeout=30, limits=limits)


async def overload(address: str) -> list[Reply]:
    """Send requests at so many times the capacity for a while."""
    between_s = 1 / (OVERLOAD * CAPACITY)
    async with open_client(address) as client, asyncio.TaskGroup() as group:
        began_s, sent = time.monotonic(), []
        for place in range(int(LOAD_S / between_s)):
            await asyncio.sleep(began_s + place * between_s - time.monotonic())
            sent.append(group.create_task(send(client, f"w{place}")))
    return [task.result() for task in sent]


def test_the_surplus_is_refused_at_once_and_the_rest_is_answered(
    address: str, report: Callable[[str], None]
) -> None:
    replies = asyncio.run(overload(address))
    served = [reply for reply in replies if reply.status == 200]
    refused = [reply for reply in replies if reply.status == 429]
    exact = sum(reply.is_exact for reply in served)
    slowest_s, refusal_s = (max(reply.took_s for reply in group) for group in (served, refused))
    report(
        f"overload {OVERLOAD}x: {len(replies)} sent, {exact} of {len(served)} texts exact, "
        f"{len(refused)} refused, slowest refusal {refusal_s:.2f} s, slowest answer "
        f"{slowest_s:.1f} s"
    )
    assert len(served) + len(refused) == len(replies), {reply.status for reply in replies}
    assert exact == len(served)
    assert len(served) >= 0.6 * CAPACITY * LOAD_S, "the workers were kept busy"
    assert len(refused) >= len(replies) / 2
    assert refusal_s < 1.0
    assert {reply.retry_after for reply in refused} <= {"1", "2"}, "a job ends every 0.13 s"
    assert slowest_s < DEADLINE_S + JOB_S


async def come_back(
    client: httpx.AsyncClient, word: str, refused: asyncio.Event
) -> Sequence[Reply]:
    """Send a request until it is answered, each time when it was told to."""
    tries = [await send(client, word)]
    while tries[-1].status == 429:
        refused.set()
        await asyncio.sleep(int(tries[-1].retry_after))
        tries.append(await send(client, word))
    return tries


async def crowd(address: str, worker: Process) -> list[Sequence[Reply]]:
    """Send them all to a queue that nobody empties until it is full."""
    async with open_client(address) as client, asyncio.TaskGroup() as group:
        refused = asyncio.Event()
        worker.signal(signal.SIGSTOP)
        sent = [group.create_task(come_back(client, f"c{n}", refused)) for n in range(CROWD)]
        await refused.wait()
        worker.signal(signal.SIGCONT)
    return [task.result() for task in sent]


def test_who_comes_back_when_told_to_is_served(
    stack: Stack, address: str, report: Callable[[str], None]
) -> None:
    began_s = time.monotonic()
    clients = asyncio.run(crowd(address, stack.processes[0]))
    took_s = time.monotonic() - began_s
    most = max(map(len, clients))
    report(f"crowd of {CROWD}: all served in {took_s:.1f} s, at most {most} tries each")
    assert all(tries[-1].is_exact for tries in clients)
    assert sum(len(tries) for tries in clients) > CROWD, "some were refused first"
    assert took_s < 4 * CROWD / CAPACITY
