"""Chat completions over HTTP, from a client that costs the server little CPU.

An answer's tokens share the machine with whoever reads them, and a general HTTP client takes more
CPU per token than the doors under test. Streams are read by asyncio's bare protocol and by
`events`; what is not measured goes the ordinary way.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from bench.answers import Answer, RequestFailed
from bench.events import Body, Events
from bench.prompts import Ask, Messages

COMPLETIONS = "/v1/chat/completions"

LAST_CHUNK = b"0\r\n\r\n"
"""What a chunked body ends with, and seldom anything else; `Body` tells for sure."""


class Exchange:
    """One request, and what came back.

    What comes is noted with its time, and read when the answer is complete: so the load takes the
    processor when one answer ends, and not at each of its tokens.
    """

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.answer = Answer(sent_s=time.perf_counter())
        self.begun = asyncio.Event()
        """Set by the first text, or by the end if there was none."""
        self.ended = asyncio.Event()
        self.keeps = False
        """Whether the connection can carry another exchange, once this one has ended."""
        self._pieces: list[tuple[float, bytes]] = []
        self._tail = b""
        self._body = Body()
        self._events = Events()
        self._refusal = b""

    def take(self, data: bytes) -> None:
        """Note what came; the end of the body ends the exchange."""
        self._pieces.append((time.perf_counter(), data))
        self._tail = (self._tail + data[-len(LAST_CHUNK) :])[-len(LAST_CHUNK) :]
        if not (self._body.is_chunked and self._events.begun) or self._tail == LAST_CHUNK:
            self._read()
        if self._body.complete:
            self.keeps = self._body.keeps_connection
            self._end("")

    def lose(self, error: Exception | None) -> None:
        """Take note that the connection has ended."""
        self._read()
        ends = self._body.status != 0 and (self._body.complete or self._body.ends_by_closing)
        self._end("" if error is None and ends else f"the connection broke: {error}")

    def give_up(self, failure: str) -> None:
        """End it from this side, as a failure."""
        self._end(failure)

    def _read(self) -> None:
        pieces, self._pieces = self._pieces, []
        for now_s, data in pieces:
            self.answer.ended_s = now_s
            body = self._body.feed(data)
            if self._body.status == 200:
                self._events.feed(body, now_s)
            else:
                self._refusal += body
        if self._events.begun:
            self.begun.set()

    def _end(self, failure: str) -> None:
        if self.ended.is_set():
            return
        answer, events = self.answer, self._events
        answer.ended_s = answer.ended_s if self._body.complete else time.perf_counter()
        answer.tokens, answer.arrivals = events.tokens, events.arrivals()
        answer.prompt_tokens = events.prompt_tokens
        answer.error = events.error or self._refused() or failure
        if not (answer.error or events.tokens):
            answer.error = "an answer without any token"
        self.begun.set()
        self.ended.set()

    def _refused(self) -> str:
        if self._body.status in (0, 200):
            return ""
        said = self._refusal.decode(errors="replace")[:300]
        return f"status {self._body.status}: {said}"


class Connection(asyncio.Protocol):
    """A connection that carries one exchange after the other, as clients keep theirs."""

    def __init__(self) -> None:
        self._exchange: Exchange | None = None
        self._transport: Any = None

    @property
    def is_open(self) -> bool:
        """Whether it can carry another exchange."""
        kept = self._exchange is None or self._exchange.keeps
        return kept and self._transport is not None and not self._transport.is_closing()

    async def carry_out(self, exchange: Exchange) -> None:
        """Send a request, and wait for the end of its answer."""
        self._exchange = exchange
        self._transport.write(exchange.request)
        await exchange.ended.wait()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take what the connection is written to."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand on what came."""
        if self._exchange is not None:
            self._exchange.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the exchange, which is complete or not."""
        self._transport = None
        if self._exchange is not None:
            self._exchange.lose(exc)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that was not streamed, and the tokens of its prompt as the server counts them."""

    text: str
    prompt_tokens: int


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
        return asyncio.run(self._run([self.request(ask.messages()) for ask in asks], parallel))

    def close(self) -> None:
        """Do nothing: the server belongs to somebody else."""

    def request(self, messages: Messages, **fields: object) -> bytes:
        """Return the bytes of a streamed request, `fields` being those of its body."""
        parts = urlsplit(self.url)
        payload = self._payload(messages, fields)
        head = (
            f"POST {parts.path.rstrip('/')}{COMPLETIONS} HTTP/1.1\r\n"
            f"Host: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\n\r\n"
        )
        return head.encode() + payload

    async def carry_out(self, exchange: Exchange, kept: Connection | None = None) -> Connection:
        """Send and read to the end, on `kept` if that is open; what goes wrong is an error.

        Returns:
            The connection, to be closed or kept.
        """
        connection = kept if kept is not None and kept.is_open else Connection()
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        try:
            async with asyncio.timeout(self.timeout_s):
                if connection is not kept:
                    await asyncio.get_running_loop().create_connection(
                        lambda: connection, parts.hostname or "", port, ssl=secure or None
                    )
                await connection.carry_out(exchange)
        except (OSError, TimeoutError) as error:
            exchange.give_up(repr(error))
            connection.close()
        return connection

    async def ask(self, exchange: Exchange) -> Answer:
        """Carry it out on a connection of its own."""
        (await self.carry_out(exchange)).close()
        return exchange.answer

    def stream(self, messages: Messages, **fields: object) -> Answer:
        """Ask one thing and wait for the end of the answer."""
        return asyncio.run(self.ask(Exchange(self.request(messages, **fields))))

    def reply(self, messages: Messages, **fields: object) -> Reply:
        """Ask one thing without a stream, for its text and not for its time.

        Raises:
            RequestFailed: it was refused, was not answered in time, or no usage came with it.
        """
        payload = self._payload(messages, fields | {"stream": False, "stream_options": None})
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + COMPLETIONS, payload, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                said = json.load(response)
            text = said["choices"][0]["message"]["content"]
            return Reply(text or "", int(said["usage"]["prompt_tokens"]))
        except urllib.error.HTTPError as error:
            with error:
                refusal = error.read().decode(errors="replace")[:300]
            raise RequestFailed(f"status {error.code}: {refusal}") from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RequestFailed(repr(error)) from error

    async def _run(self, requests: list[bytes], parallel: int) -> list[Answer]:
        left = iter(requests)
        answers: list[Answer] = []

        async def chat() -> None:
            connection: Connection | None = None
            for request in left:
                exchange = Exchange(request)
                connection = await self.carry_out(exchange, connection)
                answers.append(exchange.answer)
            if connection is not None:
                connection.close()

        await asyncio.gather(*(chat() for _ in range(parallel)))
        return answers

    def _payload(self, messages: Messages, fields: dict[str, object]) -> bytes:
        body: dict[str, object] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body |= fields | self.extra
        return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


def first_model(url: str) -> str:
    """Return the first model that a server lists."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as reply:
        models = json.load(reply)["data"]
    if not models:
        raise SystemExit(f"{url} lists no model")
    return str(models[0]["id"])
