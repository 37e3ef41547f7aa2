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


class Exchange(asyncio.Protocol):
    """One request on a connection of its own, and what came back."""

    def __init__(self, request: bytes) -> None:
        self.answer = Answer(sent_s=time.perf_counter())
        self.begun = asyncio.Event()
        """Set by the first text, or by the end if there was none."""
        self.ended = asyncio.Event()
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
        if self._events.begun:
            self.begun.set()
        if self._body.complete:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the answer, complete or not."""
        self.answer.ended_s = self.answer.ended_s or time.perf_counter()
        self._end(self._failure(exc))

    def give_up(self, failure: str) -> None:
        """End it from this side, as a failure."""
        self.answer.ended_s = time.perf_counter()
        self._end(failure)
        if self._transport is not None:
            self._transport.close()

    def _end(self, failure: str) -> None:
        if self.ended.is_set():
            return
        answer, events = self.answer, self._events
        answer.tokens, answer.arrivals = events.tokens, events.arrivals()
        answer.prompt_tokens = events.prompt_tokens
        answer.error = events.error or failure
        self.begun.set()
        self.ended.set()

    def _failure(self, exc: Exception | None) -> str:
        if self._body.status != 200:
            said = self._refusal.decode(errors="replace")[:300]
            return f"status {self._body.status}: {said}"
        if exc is not None or not (self._body.complete or self._body.ends_by_closing):
            return f"the connection broke: {exc}"
        return "" if self._events.tokens else "an answer without any token"


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
            f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + payload

    async def carry_out(self, exchange: Exchange) -> Answer:
        """Connect, send, and read to the end; what goes wrong is the answer's error."""
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        try:
            async with asyncio.timeout(self.timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: exchange, parts.hostname or "", port, ssl=secure or None
                )
                await exchange.ended.wait()
        except (OSError, TimeoutError) as error:
            exchange.give_up(repr(error))
        return exchange.answer

    def stream(self, messages: Messages, **fields: object) -> Answer:
        """Ask one thing and wait for the end of the answer."""
        request = self.request(messages, **fields)

        async def ask() -> Answer:
            return await self.carry_out(Exchange(request))

        return asyncio.run(ask())

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
            for request in left:
                answers.append(await self.carry_out(Exchange(request)))

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
