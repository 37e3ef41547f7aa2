"""Gradio's streams of replies over web sockets.

A browser keeps six connections to a host open, for all of its tabs together, and each tab holds
two: with three tabs whose answers are being written nothing else would get through. Web sockets
are not counted.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REPLIES: Final = "/gradio_api/queue/data"
"""Where Gradio tells a tab what became of its events; it ends when it has told of all."""

HEARTBEAT: Final = "/gradio_api/heartbeat/"
"""What is open for as long as a tab is."""


class StreamSockets:
    """Middleware that says over a web socket what a GET of its address is answered, as it comes.

    Replies go on with the next stream of them when one has ended. What a GET would be refused is
    refused with the same status.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything else on."""
        if not scope.get("path", "").startswith((REPLIES, HEARTBEAT)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._answer(scope, _Socket(receive, send))
        else:
            await self._reply(scope, receive, send)

    async def _reply(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Have it answered; return whether there may be more.

        Gradio tells a tab that it does not know any more, such as one that asks while it is being
        left, and fails then; of that nothing is to be seen in the log.
        """
        try:
            await self._app(scope, receive, send)
        except RuntimeError as failure:
            if not isinstance(failure.__cause__, HTTPException):
                raise
            await send({"type": "http.response.body"})
            return False
        return bool(scope["path"] == REPLIES)

    async def _answer(self, scope: Scope, socket: _Socket) -> None:
        # Since 2.4 Starlette waits for an error of `send` instead of for the client's leaving.
        asgi = {"version": "3.0", "spec_version": "2.3"}
        scheme = scope["scheme"].replace("ws", "http", 1)
        request = {**scope, "type": "http", "method": "GET", "scheme": scheme, "asgi": asgi}
        watching = asyncio.create_task(socket.watch())
        try:
            while await self._reply(request, socket.wait, socket.say) and socket.is_open:
                pass
            await socket.close()
        finally:
            watching.cancel()


class _Socket:
    """A web socket as a request and its reply."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_accepted = False
        self._is_good = False  # what is being replied
        self._gone = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._is_accepted and self._is_good and not self._gone.is_set()

    async def watch(self) -> None:
        """Notice that the client has left."""
        while (await self._receive())["type"] != "websocket.disconnect":
            pass
        self._gone.set()

    async def wait(self) -> Message:
        """What follows a request without a body: that its client has left."""
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def say(self, message: Message) -> None:
        """Pass a part of a reply on; the start of a first one opens or refuses the socket."""
        if message["type"] == "http.response.start":
            self._is_good = message["status"] == 200
        with suppress(OSError):  # the client left in this moment
            if self._is_accepted:
                if self._is_good and message.get("body"):
                    await self._send({"type": "websocket.send", "text": message["body"].decode()})
            elif self._is_good:
                self._is_accepted = True
                await self._send({"type": "websocket.accept"})
            else:
                await self._send({**message, "type": f"websocket.{message['type']}"})

    async def close(self) -> None:
        """End it from this side."""
        with suppress(OSError):
            if self._is_accepted and not self._gone.is_set():
                await self._send({"type": "websocket.close"})
