"""Streams over web sockets, by themselves: what is said, refused and passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient, WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from frontend.ui.sockets import HEARTBEAT, REPLIES, StreamSockets

MOST = 3


class Server:
    """Ends a stream of replies after two of them, gives `MOST`, and knows which ones were left."""

    def __init__(self) -> None:
        self.streams = 0
        self.left: list[str] = []
        routes = [Route(REPLIES, self.replies), Route(HEARTBEAT + "{name}", self.heartbeat)]
        app = Starlette(routes=routes, middleware=[Middleware(StreamSockets)])
        self.client = TestClient(app, "http://test")

    def replies(self, request: Request) -> Response:
        if request.query_params.get("session_hash") == "left":
            return StreamingResponse(self.unknown(), media_type="text/event-stream")
        if request.query_params.get("session_hash") != "known" or self.streams == MOST:
            return PlainTextResponse("Who are you?", 418)
        return StreamingResponse(self.two(), media_type="text/event-stream")

    async def two(self) -> AsyncIterator[str]:
        self.streams += 1
        for number in (1, 2):
            yield f"data: reply {number} of stream {self.streams} ü\n\n"

    async def unknown(self) -> AsyncIterator[str]:
        """What Gradio does when it does not know a tab any more."""
        yield "data: Session not found\n\n"
        raise HTTPException(404)

    async def heartbeat(self, request: Request) -> Response:
        assert (request.method, request.url.scheme) == ("GET", "http")
        return StreamingResponse(self.beat(request.path_params["name"]))

    async def beat(self, name: str) -> AsyncIterator[str]:
        try:
            yield name
            await asyncio.Event().wait()
        finally:
            self.left.append(name)

    def connect(self, address: str) -> WebSocketTestSession:
        return self.client.websocket_connect(address)


def test_replies_go_on_with_the_next_stream() -> None:
    server = Server()
    with server.connect(f"{REPLIES}?session_hash=known") as socket:
        said = [socket.receive_text() for _ in range(5)]
    assert said == [
        f"data: reply {number} of stream {stream} ü\n\n"
        for stream, number in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1))
    ]


def test_a_failure_in_between_ends_it() -> None:
    said = []
    with (
        pytest.raises(WebSocketDisconnect),
        Server().connect(f"{REPLIES}?session_hash=known") as socket,
    ):
        while True:
            said.append(socket.receive_text())
    assert len(said) == 2 * MOST


def test_who_leaves_leaves_the_stream() -> None:
    server = Server()
    with server.connect(f"{HEARTBEAT}tab") as socket:
        assert socket.receive_text() == "tab"
        assert not server.left
    assert server.left == ["tab"]


def test_a_tab_that_is_not_known_any_more_is_told_so_once_and_fails_nothing() -> None:
    address = f"{REPLIES}?session_hash=left"
    with Server().connect(address) as socket:
        assert socket.receive_text() == "data: Session not found\n\n"
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    assert Server().client.get(address).text == "data: Session not found\n\n"


def test_what_a_request_would_be_refused_is_refused() -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, Server().connect(REPLIES):
        pass
    assert (refused.value.status_code, refused.value.text) == (418, "Who are you?")


def test_there_is_nothing_else_over_web_sockets() -> None:
    with pytest.raises(WebSocketDisconnect), Server().connect("/gradio_api/upload"):
        pass


def test_plain_requests_are_answered_as_ever() -> None:
    reply = Server().client.get(f"{REPLIES}?session_hash=known")
    assert reply.text.count("stream 1") == 2
