"""Answers as clients of the API get them, over raw sockets that a test may cut, starve or silence.

A `Client` follows one answer over as many connections as it takes: where one breaks off, it comes
back with `Last-Event-ID`, to the next of its API processes. A starved or vanished connection is
made here and read, if at all, by the test.
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from broker.events import Delta, End, EventId, Timings, Usage
from tests.chaos.cases import Told
from tests.frontend.clients import Connection, body

SMALL_BYTES = 2304
"""The smallest receive buffer that Linux gives."""

_SO_ATTACH_FILTER = 26  # Linux; the socket module does not name it
_DROP = struct.pack("HBBI", 0x06, 0, 0, 0)


class BrokenOff(Exception):
    """The connection has ended, and the answer has not."""


class EndedInError(AssertionError):
    """The answer has ended with an error, whose code is the first argument."""


@dataclass(eq=False)
class Heard:
    """What a client knows of an answer; `chunks` are (event id or "", data) as they came."""

    told: Told = field(default_factory=Told)
    chunks: list[tuple[str, str]] = field(default_factory=list)
    job_id: str = ""
    is_done: bool = False
    _mark: str = ""

    @property
    def last(self) -> str:
        """Id of the last event, to come back with."""
        return str(self.told.ids[-1]) if self.told.events else ""

    def begin(self) -> None:
        """Take lines of a new connection; an id whose data did not come any more is of the old."""
        self._mark = ""

    def take(self, line: str) -> None:
        """Take one line of a stream.

        Raises:
            BrokenOff: the server says that it goes away.
        """
        if line.startswith("id: "):
            self._mark = line.removeprefix("id: ")
        elif line == "data: [DONE]":
            self.is_done = True
        elif line.startswith("data: "):
            mark, self._mark = self._mark, ""
            self._take_chunk(mark, line.removeprefix("data: "))

    def _take_chunk(self, mark: str, data: str) -> None:
        value: Any = json.loads(data)
        if "error" in value:
            if value["error"]["code"] == "server_stopping":
                raise BrokenOff
            raise EndedInError(value["error"]["code"], value)
        self.chunks.append((mark, data))
        self.job_id = value["id"].removeprefix("chatcmpl-")
        (choice,) = value["choices"]
        if choice["finish_reason"]:
            self._end(EventId.parse(mark), choice["finish_reason"])
        elif mark:
            text = choice["delta"]["content"]
            self.told.events.append((time.monotonic(), Delta(EventId.parse(mark), text, ())))
            self.told.tokens += len(text.split())

    def _end(self, event_id: EventId, reason: Any) -> None:
        """The last text came as a chunk of its own, with the same id."""
        text = ""
        if self.told.events and self.told.events[-1][1].id == event_id:
            text = self.told.events.pop()[1].text  # type: ignore[union-attr]
        end = End(event_id, text, (), reason, Usage(0, 0), Timings(0.0, 0.0, 0.0))
        self.told.events.append((time.monotonic(), end))


class Client(Heard):
    """Reads one answer on a thread of its own."""

    def __init__(
        self,
        apis: Sequence[str],
        wanted: dict[str, Any],
        *,
        cuts: Iterable[int] = (),
        key: str = "",
        job_id: str = "",
    ) -> None:
        """Begin to read.

        Args:
            apis: where to ask; the first is sent the request, each next one serves a return.
            wanted: fields of the request.
            cuts: numbers of tokens after which the client breaks its connection and comes back.
            key: an `Idempotency-Key`.
            job_id: read this job from its beginning instead of sending a request.
        """
        super().__init__(job_id=job_id)
        self._apis, self._wanted, self._key = apis, wanted, key
        self._cuts = sorted(cuts, reverse=True)
        self._progress = threading.Condition()
        self._failure: BaseException | None = None
        self._connection: Connection | None = None
        self.connections = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self.is_done:
                with self._connect() as self._connection:
                    try:
                        self._read(self._connection)
                    except (BrokenOff, ConnectionError):
                        continue
        except BaseException as failure:
            self._failure = failure
        finally:
            with self._progress:
                self._progress.notify_all()

    def _connect(self) -> Connection:
        address = self._apis[self.connections % len(self._apis)]
        self.connections += 1
        assert self.connections < 100, f"the answer broke off again and again after {self.last}"
        try:
            connection = Connection(address)
        except ConnectionError:
            return self._connect()
        if self.job_id:
            connection.get(f"/v1/jobs/{self.job_id}/events", self.last)
        else:
            connection.send(body(stream=True, **self._wanted), key=self._key)
        return connection

    def _read(self, connection: Connection) -> None:
        self.begin()
        status = next(connection.lines(), "")
        if "200 OK" not in status:
            assert not status or "503" in status, status
            raise BrokenOff
        for line in connection.lines():
            with self._progress:
                self.take(line)
                self._progress.notify_all()
            if self.is_done:
                return
            if self._cuts and self.told.tokens >= self._cuts[-1]:
                self._cuts.pop()
                raise BrokenOff
        raise BrokenOff

    def leave(self) -> None:
        """Close the connection and do not come back."""
        self.is_done = True
        assert self._connection is not None
        with suppress(OSError):  # the thread may have seen it, and have closed the connection
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def vanish(self) -> None:
        """Have all packets to this client dropped, as if its cable was pulled."""
        assert self._connection is not None
        drop = ctypes.create_string_buffer(_DROP)
        program = struct.pack("HP", 1, ctypes.addressof(drop))
        self._connection.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def until_tokens(self, count: int) -> None:
        """Wait until so many tokens have come, or the end."""
        with self._progress:
            assert self._progress.wait_for(
                lambda: self.told.tokens >= count or self.is_done or self._failure, 60
            ), f"{self.told.tokens} of {count} tokens"
        self._check()

    def finish(self, timeout_s: float = 60.0) -> Told:
        """Wait for the end of the answer."""
        self._thread.join(timeout_s)
        self._check()
        assert self.is_done, f"no end after {self.last}"
        return self.told

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


def p99_gap_s(told: Iterable[Told]) -> float:
    """The gap between two events of an answer that 99 of 100 do not exceed."""
    gaps = sorted(b - a for each in told for (a, _), (b, _) in pairwise(each.events))
    return gaps[int(0.99 * len(gaps))]


class Starved(Heard):
    """A client that takes ten bytes a second, with the smallest buffer there is."""

    def __init__(self, address: str, wanted: dict[str, Any]) -> None:
        """Send the request; `sip` reads."""
        super().__init__()
        self._connection = Connection(address, receive_bytes=SMALL_BYTES)
        self._connection.send(body(stream=True, **wanted))
        self._bytes = b""

    def sip(self) -> None:
        """Take ten bytes; to be called once a second."""
        self._bytes += self._connection.socket.recv(10)

    def gulp(self) -> None:
        """Take all that has come, up to the last whole line."""
        with self._connection, suppress(OSError):
            self._connection.socket.setblocking(False)
            while data := self._connection.socket.recv(65536):
                self._bytes += data
        for line in self._bytes.split(b"\n")[:-1]:
            self.take(line.decode().rstrip("\r"))

    def come_back(self, address: str) -> Told:
        """Read the rest of the answer over another connection, as fast as it comes."""
        self.begin()
        with Connection(address) as connection:
            connection.get(f"/v1/jobs/{self.job_id}/events", self.last)
            for line in connection.lines():
                self.take(line)
                if self.is_done:
                    return self.told
        raise BrokenOff


def streamed(address: str, text: str, **fields: Any) -> Iterator[Delta | None]:
    """Ask for an answer and yield its text as it comes, None for each comment.

    What an event has is one word for each token. The stream has come to its end when this has.

    Raises:
        AssertionError: the request is refused, or the stream ends in an error or without an end.
    """
    with Connection(address) as client:
        client.send(body(text, stream=True, **fields))
        assert (status := next(client.lines())) == "HTTP/1.1 200 OK", status
        mark, reason = "", None
        for line in client.lines_until_done():
            if line.startswith("id: "):
                mark = line.removeprefix("id: ")
            elif line.startswith(": "):
                yield None
            elif line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, line
                reason = chunk["choices"][0]["finish_reason"]
                if piece := chunk["choices"][0]["delta"].get("content"):
                    yield Delta(EventId.parse(mark), piece, (0,) * len(piece.split()))
        assert reason == "stop", f"the stream broke off after {mark}"
