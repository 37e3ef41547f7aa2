"""Streamed chat completions over HTTP, from a client that costs the server little CPU.

An answer's tokens share the machine with whoever reads them, and a general HTTP client takes more
CPU per token than the doors under test. This one is asyncio's bare protocol: it undoes HTTP/1.1's
framing and looks for a few marks in each server-sent event, and parses no JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from bench.answers import Answer
from bench.prompts import Ask

TEXT = re.compile(rb'"content":\s*"(?!")')
COUNT = re.compile(rb'"completion_tokens":\s*(\d+)')
ERROR = re.compile(rb'"error(?:_code)?":\s*[{"1-9]')
"""Within a text these marks cannot match: its quotes are escaped."""


class Body:
    """Undoes the framing of a reply: status line, headers, then chunks, a length or neither."""

    def __init__(self) -> None:
        self.status = 0
        self.complete = False
        self._buffer = b""
        self._chunked = False
        self._left: int | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what came; return what of it belongs to the body."""
        self._buffer += data
        if not self.status and not self._read_head():
            return b""
        return b"".join(self._chunks()) if self._chunked else self._take()

    @property
    def ends_by_closing(self) -> bool:
        """Whether the body is framed by nothing but the end of the connection."""
        return self.status != 0 and not self._chunked and self._left is None

    def _read_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        lines = head.split(b"\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        self._buffer = rest
        self.status = int(lines[0].split(b" ")[1])
        self._chunked = headers.get(b"transfer-encoding", b"").lower() == b"chunked"
        if self._chunked:
            self._left = 0
        elif b"content-length" in headers:
            self._left = int(headers[b"content-length"])
        return True

    def _chunks(self) -> Iterator[bytes]:
        while not self.complete:
            if self._left:
                piece = self._take()
                if not piece:
                    return
                yield piece
                continue
            line, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                return
            self._buffer = rest
            if line:
                self._left = int(line.partition(b";")[0], 16)
                self.complete = not self._left

    def _take(self) -> bytes:
        piece = self._buffer[: self._left]
        self._buffer = self._buffer[len(piece) :]
        if self._left is not None:
            self._left -= len(piece)
            self.complete = not self._chunked and not self._left
        return piece


class Events:
    """Notes when the text of a stream came, and how many tokens its server counted."""

    def __init__(self) -> None:
        self.error = ""
        self._rest = b""
        self._times: list[float] = []
        self._counts: list[int | None] = []
        self._total: int | None = None

    def feed(self, data: bytes, now_s: float) -> None:
        """Take a piece of the body."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._read(line, now_s)

    def _read(self, line: bytes, now_s: float) -> None:
        if ERROR.search(line):
            self.error = line.decode(errors="replace")[:300]
        count = COUNT.search(line)
        told = int(count[1]) if count else None
        self._total = self._total if told is None else told
        if TEXT.search(line):
            self._times.append(now_s)
            self._counts.append(told)

    @property
    def tokens(self) -> int:
        """Tokens of the answer: as the server counts them, else one for each piece of text."""
        return len(self._times) if self._total is None else self._total

    def arrivals(self) -> list[tuple[float, float]]:
        """Return when each piece came and its tokens, an equal part of all if nobody told."""
        counts = [count for count in self._counts if count]
        if len(counts) < len(self._times):
            share = self.tokens / max(1, len(self._times))
            return [(time_s, share) for time_s in self._times]
        steps = zip([0, *counts], counts, strict=False)
        return [
            (time_s, float(max(1, count - before)))
            for time_s, (before, count) in zip(self._times, steps, strict=True)
        ]


class Exchange(asyncio.Protocol):
    """One request on a connection of its own, and what came back."""

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.answer = Answer(sent_s=time.perf_counter())
        self.ended: asyncio.Future[None] = loop.create_future()
        self._request = request
        self._body = Body()
        self._events = Events()
        self._refusal = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = transport
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Read what came; the end of the body ends the exchange."""
        self.answer.ended_s = time.perf_counter()
        body = self._body.feed(data)
        if self._body.status == 200:
            self._events.feed(body, self.answer.ended_s)
        else:
            self._refusal += body
        if self._body.complete:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the answer, complete or not."""
        answer, events = self.answer, self._events
        answer.ended_s = answer.ended_s or time.perf_counter()
        answer.tokens, answer.arrivals = events.tokens, events.arrivals()
        answer.error = events.error or self._failure(exc)
        if not self.ended.done():
            self.ended.set_result(None)

    def _failure(self, exc: Exception | None) -> str:
        if self._body.status != 200:
            said = self._refusal.decode(errors="replace")[:300]
            return f"status {self._body.status}: {said}"
        if exc is not None or not (self._body.complete or self._body.ends_by_closing):
            return f"the connection broke: {exc}"
        return "" if self._events.tokens else "an answer without any token"


@dataclass(frozen=True)
class HttpTarget:
    """A running server with OpenAI's chat completions, `extra` being added to each request."""

    name: str
    url: str
    model: str
    max_tokens: int
    timeout_s: float
    extra: dict[str, object] = field(default_factory=dict)

    def run(self, asks: Sequence[Ask], parallel: int) -> list[Answer]:
        """Ask everything, `parallel` chats at a time, each asking again once it is answered."""
        return asyncio.run(self._run([self._request(ask) for ask in asks], parallel))

    def close(self) -> None:
        """Do nothing: the server belongs to somebody else."""

    async def _run(self, requests: list[bytes], parallel: int) -> list[Answer]:
        left = iter(requests)
        answers: list[Answer] = []

        async def chat() -> None:
            for request in left:
                answers.append(await self._exchange(request))

        await asyncio.gather(*(chat() for _ in range(parallel)))
        return answers

    async def _exchange(self, request: bytes) -> Answer:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        exchange = Exchange(request)
        try:
            async with asyncio.timeout(self.timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: exchange, parts.hostname or "", port, ssl=secure or None
                )
                await exchange.ended
        except (OSError, TimeoutError) as error:
            exchange.answer.ended_s = time.perf_counter()
            exchange.answer.error = repr(error)
        return exchange.answer

    def _request(self, ask: Ask) -> bytes:
        parts = urlsplit(self.url)
        body: dict[str, object] = {
            "model": self.model,
            "messages": ask.messages(),
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        wanted = {key: value for key, value in (body | self.extra).items() if value is not None}
        payload = json.dumps(wanted).encode()
        head = (
            f"POST {parts.path.rstrip('/')}/v1/chat/completions HTTP/1.1\r\n"
            f"Host: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + payload


def first_model(url: str) -> str:
    """Return the first model that a server lists."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as reply:
        models = json.load(reply)["data"]
    if not models:
        raise SystemExit(f"{url} lists no model")
    return str(models[0]["id"])
