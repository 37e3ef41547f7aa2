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
from redis.client import PubSub
from redis.exceptions import RedisError

from broker import keys
from broker.channel import read_log
from broker.errors import JobNotFound, RedisUnavailable
from broker.messages import START, Event, EventId, decode_event, is_terminal

log = logging.getLogger(__name__)

RESYNC_S = 5.0
"""Silence after which a reader looks into the log, should the channel have lost something."""

GIVE_UP_S = 15.0
"""How long a reader rides out a Redis that does not answer."""

Events = Generator[Event | None, None, None]
"""Events in order, None where the reader may look after other things; close it to stop reading."""

_Inbox = queue.SimpleQueue[Event | None]


class _ResyncingPubSub(PubSub):
    """A PubSub that says when it had to reconnect, since messages may be lost by then."""

    on_reconnect: Any = None

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)
        if self.on_reconnect is not None:
            self.on_reconnect()


class Subscriber:
    """The one pub/sub connection of a process; hands each job's events to whoever follows it."""

    def __init__(self, client: redis.Redis) -> None:
        """Start nothing yet: the connection opens with the first `follow`.

        Args:
            client: makes the connections; one is kept for pub/sub, others serve reads.
        """
        self._client = client
        self._pubsub = _ResyncingPubSub(client.connection_pool, ignore_subscribe_messages=False)
        self._pubsub.on_reconnect = self._wake_all
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._failed: set[str] = set()
        self._inboxes: dict[str, list[_Inbox]] = {}
        self._confirmed: dict[str, threading.Event] = {}
        self._thread: threading.Thread | None = None

    def follow(self, job_id: str, after: EventId = START, *, tick_s: float = 1.0) -> Events:
        """Yield a job's events after `after`, in order and without gaps, up to its terminal one.

        None is yielded when `tick_s` seconds pass without an event, so that the caller can look
        after its client.

        Raises:
            JobNotFound: there is no such job, or its record has expired or was lost.
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
        while True:
            for event in self._replay_patiently(job_id, last):
                yield event
                last = event.id if event is not None else last
            quiet_since = time.monotonic()
            while time.monotonic() - quiet_since < RESYNC_S:
                try:
                    event = inbox.get(timeout=tick_s)
                except queue.Empty:
                    yield None
                    continue
                if event is None or (event.id > last and not _follows(event.id, last)):
                    break
                yield event
                last = max(last, event.id)
                quiet_since = time.monotonic()

    def _replay_patiently(self, job_id: str, after: EventId) -> Iterator[Event | None]:
        """The log's events after `after`; None, again and again, while Redis does not answer."""
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            try:
                yield from self._replay(job_id, after)
                return
            except RedisError as error:
                if time.monotonic() > deadline:
                    raise RedisUnavailable(
                        "Redis has not answered for a while, so the rest of the answer cannot be "
                        f"read. Job {job_id} may still finish."
                    ) from error
            yield None
            time.sleep(0.2)

    def _replay(self, job_id: str, after: EventId) -> list[Event]:
        missed = read_log(self._client, job_id, after)
        if not missed and not self._client.exists(keys.job(job_id)):
            raise JobNotFound(f"Job {job_id} is unknown here, or its record has expired.")
        return missed

    @contextmanager
    def _inbox(self, job_id: str) -> Iterator[_Inbox]:
        inbox: _Inbox = queue.SimpleQueue()
        channel = keys.live(job_id)
        with self._lock:
            followers = self._inboxes.setdefault(channel, [])
            followers.append(inbox)
            confirmed = self._confirmed.setdefault(channel, threading.Event())
            if len(followers) == 1:
                self._subscribe(channel)
        try:
            # Not confirmed in time means Redis is away; the replay then finds out and says so.
            confirmed.wait(timeout=1.0)
            yield inbox
        finally:
            with self._lock:
                followers.remove(inbox)
                if not followers:
                    del self._inboxes[channel], self._confirmed[channel]
                    self._unsubscribe(channel)

    def _subscribe(self, channel: str) -> None:
        """Subscribe, or leave it to the listener when Redis is away; the lock is held."""
        channels = [channel]
        if self._thread is None:
            # A channel that stays: a connection with none at all is another state to get wrong.
            channels.append(keys.reader(uuid.uuid4().hex))
            self._thread = threading.Thread(target=self._listen, name="subscriber", daemon=True)
            self._thread.start()
        try:
            self._pubsub.subscribe(*channels)
        except RedisError as error:
            log.warning("subscribing to a job failed, its log is read instead: %s", error)
            self._failed.update(channels)

    def _unsubscribe(self, channel: str) -> None:
        self._failed.discard(channel)
        try:
            self._pubsub.unsubscribe(channel)  # type: ignore[no-untyped-call]
        except RedisError as error:
            log.warning("unsubscribing from a job failed: %s", error)

    def close(self) -> None:
        """End the listener and its connection; for tests and short programs."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self._pubsub.close()

    def _listen(self) -> None:
        pause_s = 0.1
        while not self._closed.is_set():
            try:
                message = self._pubsub.get_message(timeout=0.25)
                if self._failed:
                    self._subscribe_again()
                pause_s = 0.1
            except (RedisError, OSError, ValueError) as error:
                log.warning("pub/sub connection lost, trying again in %.1f s: %s", pause_s, error)
                self._closed.wait(pause_s)
                pause_s = min(2 * pause_s, 2.0)
                continue
            if message is not None:
                self._dispatch(message["type"], message["channel"].decode(), message["data"])

    def _subscribe_again(self) -> None:
        with self._lock:
            self._pubsub.subscribe(*self._failed)
            self._failed.clear()

    def _dispatch(self, kind: str, channel: str, data: Any) -> None:
        if kind == "subscribe":
            if (confirmed := self._confirmed.get(channel)) is not None:
                confirmed.set()
        elif kind == "message":
            entry_id, fields = json.loads(data)
            event = decode_event(EventId.parse(entry_id), fields)
            for inbox in tuple(self._inboxes.get(channel, ())):
                inbox.put(event)

    def _wake_all(self) -> None:
        for followers in tuple(self._inboxes.values()):
            for inbox in tuple(followers):
                inbox.put(None)


def _follows(new: EventId, last: EventId) -> bool:
    """Whether `new` comes directly after `last`; at a later claim the log must be asked."""
    first_claim = last == START and new == EventId(1, 0)
    return first_claim or (new.attempt == last.attempt and new.n == last.n + 1)
