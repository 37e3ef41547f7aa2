"""An HTTP server that says what a test tells it to, byte by byte: for upstreams that misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Exchange"], None]


@dataclass
class Exchange:
    """One request, and the connection on which to answer it."""

    path: str
    headers: dict[str, str]
    body: Any
    handler: BaseHTTPRequestHandler

    def reply(self, status: int, content: bytes | object, **headers: str) -> None:
        """Answer at once, with JSON unless it is bytes."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(data)

    def begin(self, kind: str = "text/event-stream", status: int = 200) -> None:
        """Begin a stream that ends with the connection."""
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", kind)
        self.handler.send_header("Connection", "close")
        self.handler.end_headers()
        self.handler.close_connection = True

    def send(self, data: bytes) -> None:
        """Send more of the stream."""
        self.handler.wfile.write(data)
        self.handler.wfile.flush()

    def left(self) -> bool:
        """Wait until the client closes its connection."""
        return self.handler.connection.recv(1) == b""


@dataclass
class Scripted:
    """A server with an answer for each path; requests are kept in order."""

    url: str
    answers: dict[str, Answer]
    seen: list[Exchange] = field(default_factory=list)

    def asked(self, path: str) -> list[Exchange]:
        """Requests to a path so far."""
        return [each for each in self.seen if each.path == path]


@contextmanager
def scripted(answers: dict[str, Answer], port: int = 0) -> Iterator[Scripted]:
    """Serve `answers` by path on a port of its own; `answers` may be changed meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(data) if data else None
            exchange = Exchange(self.path, dict(self.headers.items()), body, self)
            server.seen.append(exchange)
            answer = server.answers.get(self.path)
            if answer is None:
                exchange.reply(404, {"detail": "Not Found"})
            else:
                answer(exchange)

        do_GET = do_POST = _serve

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, OSError):
                self.close_connection = True

    http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server = Scripted(f"http://127.0.0.1:{http.server_port}", answers)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
