"""The one pub/sub connection of a process: hands each job's events to the inboxes of its readers.

What pub/sub drops is in the log. Whenever something may have been dropped, readers are sent there.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import hiredis
import redis
from redis.connection import ConnectionInterface
from redis.exceptions import RedisError

from broker import keys
from broker.events import Event, decode_message
from broker.outage import FIRST_PAUSE_S, MAX_PAUSE_S, Outage

log = logging.getLogger(__name__)

BACKLOG = 256
"""Events that wait for one reader; a slower one is sent to the log, which keeps them anyway."""

EXPECT_S = 10.0
"""A job that is expected and not read within this time is not heard any more."""

_MOST_LEFT = 32
"""Channels that nobody reads any more and that are heard all the same. Jobs that ended tell nothing
there, and leaving several at once, or on the way to another one, spares a message each."""

_HEARD_S = 1.0
"""A channel that Redis does not confirm within this time is not heard: Redis is away."""

BEFOREHAND_S = 0.25
"""How long a submission waits to be heard: its reader may as well look into the log."""

_PAGE_BYTES = 65536


class Inbox:
    """What one reader has yet to read: events, and None where it has to look into the log."""

    def __init__(self) -> None:
        self.made_s = time.monotonic()
        self.is_whole = False
        """Whether it was heard before the job began, so that the log has nothing more."""
        self._waiting: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._is_full = False

    def put(self, event: Event | None) -> None:
        """Add an event; one too many is dropped, with all after it, until the reader has caught up.

        What is dropped is in the log already, where the reader looks after it has taken the None.
        """
        if not self._is_full:
            self._is_full = self._waiting.qsize() >= BACKLOG
            self._waiting.put(None if self._is_full else event)

    def get(self, timeout_s: float) -> Event | None:
        """Take the next one.

        Raises:
            queue.Empty: none has come in time.
        """
        event = self._waiting.get(timeout=timeout_s)
        if event is None:
            self._is_full = False
        return event


class Listener:
    """Hears the channels of all jobs that somebody reads, on a thread of its own."""

    def __init__(self, client: redis.Redis, outage: Outage) -> None:
        """Start nothing yet: `client` makes the connection for the first inbox."""
        self._client = client
        self._outage = outage
        # Entered again where the collector ends a reader while another one joins.
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._inboxes: dict[str, list[Inbox]] = {}
        self._confirmed: dict[str, threading.Event] = {}
        self._expected: dict[str, Inbox] = {}
        self._left: set[str] = set()
        self._connection: ConnectionInterface | None = None
        self._is_away = False
        """Whether Redis could not be heard at the last try."""
        self._id = uuid.uuid4().hex
        self._thread: threading.Thread | None = None

    @property
    def is_connected(self) -> bool:
        """Whether Redis can be heard at the moment."""
        return self._connection is not None

    @contextmanager
    def expect(self, job_id: str) -> Iterator[Callable[[], None]]:
        """Hear a job that is submitted in the block; its first reader is given all of it.

        What is given is to be called before the submission, and waits until the job is heard: the
        more there is to do before that, the less there is to wait for. A block that fails leaves
        nothing behind.
        """
        channel, now = keys.live(job_id), time.monotonic()
        for old, left in tuple(self._expected.items()):
            if now - left.made_s > EXPECT_S:
                self._forget(old, left)
        inbox = self._expected[channel] = Inbox()
        confirmed = self._join(channel, inbox)

        def wait() -> None:
            inbox.is_whole = not self._is_away and confirmed.wait(BEFOREHAND_S)

        try:
            yield wait
        except BaseException:
            self._forget(channel, inbox)
            raise

    def _forget(self, channel: str, inbox: Inbox) -> None:
        if self._expected.pop(channel, None) is inbox:
            self._leave(channel, inbox)

    @contextmanager
    def inbox(self, job_id: str) -> Iterator[Inbox]:
        """Hear a job's channel; the inbox is given when Redis has confirmed that, or is away."""
        channel = keys.live(job_id)
        expected = self._expected.pop(channel, None)
        inbox = expected or Inbox()
        confirmed = None if expected else self._join(channel, inbox)
        try:
            if confirmed is not None:
                # Not confirmed in time means Redis is away; the replay then finds out and says so.
                confirmed.wait(_HEARD_S)
            yield inbox
        finally:
            self._leave(channel, inbox)

    def _join(self, channel: str, inbox: Inbox) -> threading.Event:
        """Have what comes on a channel put into an inbox; return what is set once it is heard."""
        with self._lock:
            followers = self._inboxes.setdefault(channel, [])
            followers.append(inbox)
            confirmed = self._confirmed.setdefault(channel, threading.Event())
            if len(followers) == 1:
                self._left.discard(channel)
                self._send(("SUBSCRIBE", channel))
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="subscriber", daemon=True)
                self._thread.start()
        return confirmed

    def _leave(self, channel: str, inbox: Inbox) -> None:
        with self._lock:
            followers = self._inboxes[channel]
            followers.remove(inbox)
            if not followers:
                del self._inboxes[channel], self._confirmed[channel]
                self._left.add(channel)
                if len(self._left) > _MOST_LEFT:
                    self._send()

    def close(self) -> None:
        """End the thread and the connection."""
        self._closed.set()
        with self._lock:
            self._hang_up()
        if self._thread is not None:
            self._thread.join()

    def _hang_up(self) -> None:
        """Wake the thread: the connection is not wanted any more; the lock is held."""
        connection, self._connection = self._connection, None
        heard: socket.socket | None = getattr(connection, "_sock", None)
        if heard is not None:
            with suppress(OSError):  # it is broken already
                heard.shutdown(socket.SHUT_RDWR)

    def _send(self, *commands: tuple[str, ...]) -> None:
        """Leave what was left, and do more; the lock is held.

        Without a connection there is nothing to do: the next one hears what is read then.
        """
        connection = self._connection
        if connection is None:
            return
        if self._left:
            commands = (("UNSUBSCRIBE", *self._left), *commands)
            self._left.clear()
        try:
            connection.send_packed_command(connection.pack_commands(commands))  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            self._outage.begin("readers", error)
            self._hang_up()

    def _listen(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closed.is_set():
            try:
                with self._connected() as connection:
                    self._outage.end("readers")
                    self._is_away = False
                    pause_s = FIRST_PAUSE_S
                    self._hear(connection)
            except (RedisError, OSError, ValueError) as error:
                self._outage.begin("readers", error)
                self._is_away = True
                for channel in tuple(self._inboxes):
                    self._tell(channel, None)
                self._closed.wait(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    @contextmanager
    def _connected(self) -> Iterator[ConnectionInterface]:
        """Subscribe to all that is followed, on a connection for this alone."""
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            with self._lock:
                self._left.clear()
                # And to a channel that stays: there may be no other at the moment.
                connection.send_command("SUBSCRIBE", keys.reader(self._id), *self._inboxes)  # type: ignore[no-untyped-call]
                self._connection = connection
            yield connection
        finally:
            with self._lock:
                self._connection = None
            connection.disconnect()  # type: ignore[no-untyped-call]
            pool.release(connection)

    def _hear(self, connection: ConnectionInterface) -> None:
        """Hand on what comes, until the connection is lost or not wanted any more.

        Not by redis-py, whose way from the socket to a message takes several times as long.
        """
        heard: socket.socket = connection._sock  # type: ignore[attr-defined]
        heard.settimeout(None)
        reader = hiredis.Reader()
        while self._connection is connection and not self._closed.is_set():
            data = heard.recv(_PAGE_BYTES)
            if not data:
                if self._closed.is_set():
                    return
                raise redis.ConnectionError("Redis has closed the connection")
            reader.feed(data)
            try:
                while (reply := reader.gets()) is not False:
                    if isinstance(reply, list) and len(reply) == 3:
                        self._dispatch(*reply)
                    elif isinstance(reply, Exception):
                        raise redis.ResponseError(str(reply))
            except hiredis.HiredisError as error:
                raise redis.ConnectionError(f"Redis does not speak its protocol: {error}") from None

    def _dispatch(self, kind: bytes, name: bytes, data: Any) -> None:
        channel = name.decode()
        if kind == b"message":
            self._tell(channel, _read(channel, data))
        elif kind == b"subscribe" and (confirmed := self._confirmed.get(channel)) is not None:
            if confirmed.is_set():  # on a new connection: messages may be lost
                self._tell(channel, None)
            confirmed.set()

    def _tell(self, channel: str, event: Event | None) -> None:
        """Hand an event to its readers; None sends them to the log."""
        inboxes = tuple(self._inboxes.get(channel, ()))
        for inbox in inboxes:
            inbox.put(event)
        if not inboxes and channel in self._left:  # it goes on without readers
            with self._lock:
                self._send()


def _read(channel: str, data: bytes) -> Event | None:
    try:
        return decode_message(data)
    except Exception as error:  # whatever a stranger may have published
        log.warning("no event on %s (%s): %.80r", channel, error, data)
        return None
