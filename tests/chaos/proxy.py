"""A TCP proxy on loopback that can stop forwarding without closing anything.

What a cut network looks like from both ends where the machine allows no network namespaces: bytes
are taken and go nowhere, connections open and stay silent, and what was on its way arrives once
the cut is healed. Knows nothing of what is spoken through it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class Proxy:
    """Forwards from `port` to another port of this machine, on a thread of its own."""

    def __init__(self, target: int) -> None:
        """Listen and forward at once."""
        self.port = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._forwarding = asyncio.Event()
        self._stopped = asyncio.Event()
        self._ends: list[asyncio.StreamWriter] = []
        self._pumps: list[asyncio.Task[None]] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._ready.wait()

    def cut(self) -> None:
        """Take bytes and connections, and do nothing with them."""
        self._loop.call_soon_threadsafe(self._forwarding.clear)

    def heal(self) -> None:
        """Deliver what was held back, and go on."""
        self._loop.call_soon_threadsafe(self._forwarding.set)

    def close(self) -> None:
        """Break all connections off and end the thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._forwarding.set()
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for end in self._ends:
            end.transport.abort()
        self._forwarding.set()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.append(writer)
        await self._forwarding.wait()
        there = await asyncio.open_connection("127.0.0.1", self._target)
        self._ends.append(there[1])
        for source, sink in ((reader, there[1]), (there[0], writer)):
            self._pumps.append(asyncio.ensure_future(self._pump(source, sink)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                await self._forwarding.wait()
                sink.write(data)
                await sink.drain()
        await self._forwarding.wait()
        sink.close()
