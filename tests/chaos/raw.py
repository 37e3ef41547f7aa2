"""Requests as bytes on a socket, for what no HTTP client would send, and what comes back."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.frontend.clients import CHAT

JSON = "application/json"


@dataclass(frozen=True)
class Reply:
    """What came back, and how long after the first byte was sent."""

    status: int
    took_s: float
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, str]:
        """OpenAI's error object."""
        told: dict[str, str] = self.json["error"]
        return told

    @property
    def text(self) -> str:
        """The answer."""
        told: str = self.json["choices"][0]["message"]["content"]
        return told


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=60)


def head(route: str = CHAT, kind: str = JSON, length: str = "Transfer-Encoding: chunked") -> bytes:
    """The head of a POST, whose body may follow in pieces."""
    return f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{length}\r\n\r\n".encode()


def read_reply(connection: socket.socket, since_s: float) -> Reply:
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        content = response.read()
    return Reply(response.status, time.monotonic() - since_s, content)


def exchange(address: str, request: bytes) -> Reply:
    """Send all bytes and read the reply; who is refused in the middle of sending reads it too."""
    with connect(address) as connection:
        began_s = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        return read_reply(connection, began_s)


def post(address: str, body: bytes, route: str = CHAT, kind: str = JSON) -> Reply:
    return exchange(address, head(route, kind, f"Content-Length: {len(body)}") + body)


def post_all(address: str, bodies: Sequence[bytes]) -> list[Reply]:
    """Send all at once, each over a connection of its own."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: post(address, body), bodies))


def slowest_s(replies: Iterable[Reply]) -> float:
    return max(reply.took_s for reply in replies)
