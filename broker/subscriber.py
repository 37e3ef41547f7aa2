"""Reading the token channel: one pub/sub connection for a whole process.

A reader subscribes, replays the log, follows the channel and fills any gap from the log: whatever
pub/sub drops, the events come in order, each once. Knows nothing of who reads or why.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.connection import ConnectionInterface
from redis.exceptions import RedisError

from broker import keys
from broker.channel import read_log
from broker.errors import AnswerExpired, JobLost, JobNotFound, RedisUnavailable
from broker.events import START, Event, EventId, decode_event, is_terminal
from broker.jobs import ENDED
from broker.outage import FIRST_PAUSE_S, MAX_PAUSE_S, Outage

log = logging.getLogger(__name__)

RESYNC_S = 5.0
"""Silence after which a reader looks into the log, should the channel have lost something."""

GIVE_UP_S = 13.0
"""How long a reader rides out a Redis that does not answer, from when it finds out: at once if the
connection is lost, after `RESYNC_S` if it hangs."""

BACKLOG = 256
"""Events that wait for one reader; a slower one is sent to the log, which keeps them anyway."""

PAGE = 256
"""Events that a reader takes out of the log at a time."""

_RETRY_S = 0.2
_WAKE_S = 0.25

Events = Generator[Event | None, None, None]
"""Events in order, None where the reader may look after other things; close it to stop reading."""


class _Inbox:
    """What one reader has yet to read: events, and None where it has to look into the log."""

    def __init__(self) -> None:
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


class Subscriber:
    """The one pub/sub connection of a process; hands each job's events to whoever follows it."""

    def __init__(self, client: redis.Redis, outage: Outage | None = None) -> None:
        """Start nothing yet: the connection opens with the first `follow`.

        Args:
            client: makes the connections; one is kept for pub/sub, others serve reads. It should
                not retry: a reader does so itself, and looks after other things in between.
            outage: the one of this process, its own by default.
        """
        self._client = client
        self._outage = outage or Outage()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._inboxes: dict[str, list[_Inbox]] = {}
        self._confirmed: dict[str, threading.Event] = {}
        self._connection: ConnectionInterface | None = None
        self._id = uuid.uuid4().hex
        self._thread: threading.Thread | None = None

    def follow(self, job_id: str, after: EventId = START, *, tick_s: float = 1.0) -> Events:
        """Yield a job's events after `after`, in order and without gaps, up to its terminal one.

        None is yielded when `tick_s` seconds pass without an event, so that the caller can look
        after its client.

        Raises:
            AnswerExpired: the reader was so slow that the log has expired under it.
            JobNotFound: there is no such job, or its record has expired.
            JobLost: Redis has lost it, or what was told of it and the worker with it.
            RedisUnavailable: Redis did not answer for `GIVE_UP_S` seconds.
        """
        last = after
        with self._inbox(job_id) as inbox:
            for event in self._events(job_id, inbox, after, tick_s):
                if event is None or event.id > last:
                    yield event
                if event is not None:
                    last = max(last, event.id)
                    if is_terminal(event):
                        return

    def _events(
        self, job_id: str, inbox: _Inbox, last: EventId, tick_s: float
    ) -> Iterator[Event | None]:
        """Log, then channel, then log again whenever the channel may have lost something."""
        known = last > START
        while True:
            for event in self._replay_patiently(job_id, last, known):
                yield event
                last = event.id if event is not None else last
            quiet_since, known = time.monotonic(), True
            while time.monotonic() - quiet_since < RESYNC_S:
                try:
                    event = inbox.get(tick_s)
                except queue.Empty:
                    yield None
                    continue
                if event is None or (event.id > last and not _follows(event.id, last)):
                    break
                yield event
                last = max(last, event.id)
                quiet_since = time.monotonic()

    def _replay_patiently(self, job_id: str, after: EventId, known: bool) -> Iterator[Event | None]:
        """The log's events after `after`; None, again and again, while Redis does not answer."""
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            try:
                page = self._replay(job_id, after, known)
            except RedisError as error:
                if time.monotonic() > deadline:
                    raise RedisUnavailable(
                        "Redis has not answered for a while, so the rest of the answer cannot be "
                        f"read. Job {job_id} may still finish."
                    ) from error
                yield None
                time.sleep(_RETRY_S)
                continue
            yield from page
            if len(page) < PAGE:
                return
            after, deadline = page[-1].id, time.monotonic() + GIVE_UP_S
            known = True

    def _replay(self, job_id: str, after: EventId, known: bool) -> list[Event]:
        if self._connection is None:  # one looks for Redis, not each of a thousand readers
            raise redis.ConnectionError("there is no connection to Redis")
        missed = read_log(self._client, job_id, after, PAGE)
        if missed:
            self._check_joint(job_id, after, missed[0].id)
        else:
            self._check_log(job_id, after, known)
        return missed

    def _check_joint(self, job_id: str, after: EventId, first: EventId) -> None:
        """The next attempt goes on from the log: what is not there would be told again."""
        if START < after < first and first.attempt > after.attempt:
            at = str(after)
            if not self._client.xrange(keys.events(job_id), at, at):
                raise JobLost

    def _check_log(self, job_id: str, after: EventId, known: bool) -> None:
        """Tell a log that is silent from one that is gone."""
        state: Any = self._client.hget(keys.job(job_id), "state")
        if self._client.exists(keys.events(job_id)):
            return
        if state is None:
            if known:
                raise JobLost
            raise JobNotFound(f"Job {job_id} is unknown here, or its record has expired.")
        if after > START and state.decode() in ENDED:
            raise AnswerExpired(
                f"The rest of the answer is not kept any more: job {job_id} has ended more than "
                f"{keys.ENDED_EVENTS_TTL_S // 60} minutes ago. Send the request again."
            )

    @contextmanager
    def _inbox(self, job_id: str) -> Iterator[_Inbox]:
        inbox = _Inbox()
        channel = keys.live(job_id)
        with self._lock:
            followers = self._inboxes.setdefault(channel, [])
            followers.append(inbox)
            confirmed = self._confirmed.setdefault(channel, threading.Event())
            if len(followers) == 1:
                self._send("SUBSCRIBE", channel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="subscriber", daemon=True)
                self._thread.start()
        try:
            # Not confirmed in time means Redis is away; the replay then finds out and says so.
            confirmed.wait(timeout=1.0)
            yield inbox
        finally:
            with self._lock:
                followers.remove(inbox)
                if not followers:
                    del self._inboxes[channel], self._confirmed[channel]
                    self._send("UNSUBSCRIBE", channel)

    def _send(self, command: str, channel: str) -> None:
        """Change what is heard; the lock is held. Without a connection the next one hears all."""
        if self._connection is None:
            return
        try:
            self._connection.send_command(command, channel)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            self._outage.begin("readers", error)
            self._connection = None

    def close(self) -> None:
        """End the listener and its connection; for tests and short programs."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _listen(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closed.is_set():
            try:
                with self._connected() as connection:
                    self._outage.end("readers")
                    pause_s = FIRST_PAUSE_S
                    self._hear(connection)
            except (RedisError, OSError, ValueError) as error:
                self._outage.begin("readers", error)
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
        # Not through redis-py's PubSub, which takes three times as long for each message.
        while self._connection is connection and not self._closed.is_set():
            try:
                kind, channel, data = connection.read_response(
                    push_request=True, timeout=_WAKE_S, disconnect_on_error=False
                )
            except redis.TimeoutError:
                continue
            self._dispatch(kind, channel.decode(), data)

    def _dispatch(self, kind: bytes, channel: str, data: Any) -> None:
        if kind == b"message":
            self._tell(channel, _read(channel, data))
        elif kind == b"subscribe" and (confirmed := self._confirmed.get(channel)) is not None:
            if confirmed.is_set():  # on a new connection: messages may be lost
                self._tell(channel, None)
            confirmed.set()

    def _tell(self, channel: str, event: Event | None) -> None:
        """Hand an event to its readers; None sends them to the log."""
        for inbox in tuple(self._inboxes.get(channel, ())):
            inbox.put(event)


def _read(channel: str, data: bytes) -> Event | None:
    try:
        entry_id, fields = json.loads(data)
        return decode_event(EventId.parse(entry_id), fields)
    except Exception as error:  # whatever a stranger may have published
        log.warning("no event on %s (%s): %.80r", channel, error, data)
        return None


def _follows(new: EventId, last: EventId) -> bool:
    """Whether `new` comes directly after `last`; at a later claim the log must be asked."""
    first_claim = last == START and new == EventId(1, 0)
    return first_claim or (new.attempt == last.attempt and new.n == last.n + 1)
