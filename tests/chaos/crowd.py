"""Many streams read by one process of its own, which keeps what comes and reads it at the end.

So reading costs next to nothing while the streams run, and what is measured is the service.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from urllib.parse import urlsplit

import redis

from broker import keys
from tests.chaos.cases import Told
from tests.chaos.streams import Heard, p99_gap_s
from tests.frontend.clients import CHAT, body

SAMPLE = "0"
"""Of one job in sixteen it is noted when each event was published, and heard."""

Mark = tuple[str, str]
"""An event: id of its job, and its own."""

SLOW_BUFFER_BYTES = 16 * 1024
SLOW_BYTES, SLOW_S = 512, 0.25
"""A slow reader takes so many bytes, and then nothing for so long: half of what a stream brings."""


@dataclass(frozen=True)
class Wanted:
    """Streams of an echo, each of `tokens` times a word of its own, at `speed` tokens a second.

    They come one after another, as people do, and stay together for the rest of their time. The
    last `slow` of them read slowly until all others are done.
    """

    streams: int
    tokens: int
    speed: int
    slow: int = 0
    arrivals_per_s: float = 100.0

    @property
    def limit_s(self) -> float:
        """When all have to be done."""
        return self.tokens / self.speed + 120


@dataclass(frozen=True)
class Crowd:
    """What became of all streams of a crowd; gaps are those of the quick readers.

    `heard` is when quick readers had the events of jobs whose ids begin with `SAMPLE`.
    """

    answers: int
    exact: int
    duplicated: int
    lost: int
    events: int
    p99_gap_s: float
    worst_gap_s: float
    took_s: float
    heard: dict[Mark, float]

    def line(self) -> str:
        """The figures as one line."""
        return (
            f"{self.answers} streams for {self.took_s:.0f} s: {self.exact} texts exact, "
            f"{self.duplicated} duplicated, {self.lost} lost, {self.events} events, gap p99 "
            f"{1000 * self.p99_gap_s:.0f} ms, worst {1000 * self.worst_gap_s:.0f} ms"
        )


class Answer:
    """One answer, as `pieces` of bytes and when they came; `told` reads them."""

    def __init__(self, text: str, tokens: int) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        payload = json.dumps(body(text, stream=True, max_tokens=tokens)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        self.request = f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload
        self.job_id = ""
        self._tail = b""

    def take(self, data: bytes) -> bool:
        """Keep what came; return whether it is the end."""
        self.pieces.append((time.monotonic(), data))
        seen = self._tail + data
        self._tail = seen[-10:]
        return b"[DONE]" in seen

    def lines(self) -> Iterator[tuple[float, str]]:
        """Each line, and when the last of it came."""
        rest = b""
        for at, data in self.pieces:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield at, line.decode().rstrip("\r")

    def told(self) -> Told:
        heard = Heard()
        for at, line in self.lines():
            heard.take(line)
            if line.startswith("data: {") and heard.told.events:
                heard.told.events[-1] = (at, heard.told.events[-1][1])
        assert heard.is_done, f"a stream ended after {heard.last!r}: {self.pieces[-1:]}"
        self.job_id = heard.job_id
        return heard.told


class Quick(asyncio.Protocol):
    """A connection whose bytes are taken as they come."""

    def __init__(self, answer: Answer) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._answer = answer
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._answer.request)

    def data_received(self, data: bytes) -> None:
        if self._answer.take(data):
            assert self._transport is not None
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set_result(None)


async def _read_slowly(host: str, port: int, answer: Answer, hurry: asyncio.Event) -> None:
    """Take few bytes at a time, with a small buffer, until there is a hurry."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
        await loop.sock_connect(sock, (host, port))
        await loop.sock_sendall(sock, answer.request)
        while data := await loop.sock_recv(sock, 65536 if hurry.is_set() else SLOW_BYTES):
            if answer.take(data):
                return
            if not hurry.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(hurry.wait(), SLOW_S)


async def _stream(address: str, wanted: Wanted, answers: Sequence[Answer]) -> None:
    host, _, port = urlsplit(address).netloc.partition(":")
    loop, hurry = asyncio.get_running_loop(), asyncio.Event()
    quick: list[asyncio.Future[None]] = []
    slow: list[asyncio.Task[None]] = []
    async with asyncio.timeout(wanted.limit_s):
        began_s = time.monotonic()
        for place, answer in enumerate(answers):
            await asyncio.sleep(began_s + place / wanted.arrivals_per_s - time.monotonic())
            if place < wanted.streams - wanted.slow:
                made = await loop.create_connection(partial(Quick, answer), host, int(port))
                quick.append(made[1].ended)
            else:
                slow.append(asyncio.create_task(_read_slowly(host, int(port), answer, hurry)))
        await asyncio.gather(*quick)
        hurry.set()
        await asyncio.gather(*slow)


def _read(address: str, wanted: Wanted) -> Crowd:
    answers = [Answer(f"w{place}", wanted.tokens) for place in range(wanted.streams)]
    began_s = time.monotonic()
    asyncio.run(_stream(address, wanted, answers))
    took_s = time.monotonic() - began_s
    told = [answer.told() for answer in answers]
    texts = (" ".join([f"w{place}"] * wanted.tokens) for place in range(wanted.streams))
    quick = told[: wanted.streams - wanted.slow]
    sampled = (each for each in zip(answers, quick, strict=False) if each[0].job_id[0] == SAMPLE)
    return Crowd(
        answers=wanted.streams,
        exact=sum(each.text == text for each, text in zip(told, texts, strict=True)),
        duplicated=sum(each.duplicated for each in told),
        lost=sum(each.lost for each in told),
        events=sum(len(each.events) for each in told),
        p99_gap_s=p99_gap_s(quick),
        worst_gap_s=max(each.silence_after(None) for each in quick),
        took_s=took_s,
        heard={
            (answer.job_id, str(event.id)): at_s
            for answer, each in sampled
            for at_s, event in each.events
        },
    )


def read(address: str, wanted: Wanted) -> Crowd:
    """Read what is wanted, all at once, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_read, address, wanted).result()


class Published:
    """Notes within the context when events of sampled jobs are published."""

    def __init__(self, client: redis.Redis) -> None:
        self.at_s: dict[Mark, float] = {}
        self._pubsub = client.pubsub()
        self._pubsub.psubscribe(**{keys.live(f"{SAMPLE}*"): self._note})
        self._thread: Any = None

    def _note(self, message: Any) -> None:
        job_id = message["channel"].decode().split(":")[2]
        self.at_s[job_id, json.loads(message["data"])[0]] = time.monotonic()

    def __enter__(self) -> Self:
        self._thread = self._pubsub.run_in_thread(sleep_time=0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.stop()
        self._thread.join()

    def p99_delay_s(self, told: Crowd) -> float:
        """Seconds from when an event was published to when its reader had it."""
        delays = sorted(at_s - self.at_s[mark] for mark, at_s in told.heard.items())
        assert len(delays) > told.events / 32, "about one in sixteen is followed"
        return delays[int(0.99 * len(delays))]
