"""Clients for the API's tests: the official one, and a raw connection that a test can cut."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai

CHAT = "/v1/chat/completions"


def official(address: str) -> openai.OpenAI:
    """The client that most people use; it reports an error at once."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=30)


def body(text: str = "hello wide world", model: str = "echo", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def post(address: str, value: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{address}{CHAT}", json=value, headers=headers, timeout=30)


def data_uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image_message(*urls: str, text: str = "look") -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": parts}]


class Connection:
    """An HTTP connection on a bare socket."""

    def __init__(self, address: str, *, receive_bytes: int = 0) -> None:
        """Connect; `receive_bytes` bounds what waits here for a slow reader, 0 does not."""
        parts = urlsplit(address)
        self.socket = socket.socket()
        self.socket.settimeout(30)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self.socket.connect((parts.hostname, parts.port))
        except OSError:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")

    def send(self, value: Any, route: str = CHAT, *, key: str = "") -> None:
        payload = json.dumps(value).encode()
        head = f"POST {route} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        head += f"Idempotency-Key: {key}\r\n" if key else ""
        self.socket.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)

    def get(self, route: str, after: str = "") -> None:
        """Ask for a stream, from an event on."""
        last = f"Last-Event-ID: {after}\r\n" if after else ""
        self.socket.sendall(f"GET {route} HTTP/1.1\r\nHost: test\r\n{last}\r\n".encode())

    def lines(self) -> Iterator[str]:
        """Lines of the reply as they come, chunk sizes included."""
        for line in self._file:
            yield line.decode().rstrip("\r\n")

    def lines_until_done(self) -> Iterator[str]:
        """The rest of a stream."""
        for line in self.lines():
            if line == "data: [DONE]":
                return
            yield line

    def body(self) -> Any:
        """The JSON of a whole reply, from wherever in its headers the reading stands."""
        length = int(self.wait_for("Content-Length: ").split()[1])
        next(line for line in self.lines() if not line)
        return json.loads(self._file.read(length))

    def wait_for(self, start: str) -> str:
        return next(line for line in self.lines() if line.startswith(start))

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
