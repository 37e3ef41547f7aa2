"""Many streams read by one process of its own, which keeps what comes and reads it at the end.

So reading costs next to nothing while the streams run, and what is measured is the service.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.chaos.cases import Told
from tests.chaos.streams import Heard, p99_gap_s
from tests.frontend.clients import CHAT, body

ARRIVALS_PER_S = 100
"""They come one after another, as people do, and stay together for the rest of their time."""


@dataclass(frozen=True)
class Crowd:
    """What became of all streams of a crowd."""

    answers: int
    exact: int
    duplicated: int
    lost: int
    events: int
    p99_gap_s: float
    worst_gap_s: float
    took_s: float

    def line(self) -> str:
        """The figures as one line."""
        return (
            f"{self.answers} streams for {self.took_s:.0f} s: {self.exact} texts exact, "
            f"{self.duplicated} duplicated, {self.lost} lost, {self.events} events, gap p99 "
            f"{1000 * self.p99_gap_s:.0f} ms, worst {1000 * self.worst_gap_s:.0f} ms"
        )


class Stream(asyncio.Protocol):
    """One request on a connection of its own; `pieces` are what came, and when."""

    def __init__(self, text: str, tokens: int) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.ended = asyncio.get_running_loop().create_future()
        payload = json.dumps(body(text, stream=True, max_tokens=tokens)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload
        self._transport: asyncio.Transport | None = None
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.monotonic(), data))
        if b"[DONE]" in self._tail + data:
            assert self._transport is not None
            self._transport.close()
        self._tail = data[-10:]

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set_result(None)

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
        return heard.told


async def _stream(
    address: str, words: Sequence[str], tokens: int, limit_s: float, arrivals_per_s: float
) -> list[Stream]:
    parts, loop = urlsplit(address), asyncio.get_running_loop()
    streams = [Stream(word, tokens) for word in words]
    async with asyncio.timeout(limit_s):
        began_s = time.monotonic()
        for place, stream in enumerate(streams):
            await asyncio.sleep(began_s + place / arrivals_per_s - time.monotonic())
            await loop.create_connection(lambda stream=stream: stream, parts.hostname, parts.port)  # type: ignore[misc]
        await asyncio.gather(*(stream.ended for stream in streams))
    return streams


def _read(address: str, count: int, tokens: int, limit_s: float, arrivals_per_s: float) -> Crowd:
    words = [f"w{place}" for place in range(count)]
    began_s = time.monotonic()
    streams = asyncio.run(_stream(address, words, tokens, limit_s, arrivals_per_s))
    took_s = time.monotonic() - began_s
    told = [stream.told() for stream in streams]
    return Crowd(
        answers=count,
        exact=sum(t.text == " ".join([w] * tokens) for w, t in zip(words, told, strict=True)),
        duplicated=sum(each.duplicated for each in told),
        lost=sum(each.lost for each in told),
        events=sum(len(each.events) for each in told),
        p99_gap_s=p99_gap_s(told),
        worst_gap_s=max(each.silence_after(None) for each in told),
        took_s=took_s,
    )


def read(
    address: str,
    count: int,
    tokens: int,
    limit_s: float,
    arrivals_per_s: float = ARRIVALS_PER_S,
) -> Crowd:
    """Stream `count` answers of an echo at once, each of `tokens` times a word of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_read, address, count, tokens, limit_s, arrivals_per_s).result()
