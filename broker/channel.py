"""The token channel: a job's events, numbered, logged and published.

The log (a stream whose entry ids are `<attempt>-<n>`) is the one source of order; pub/sub carries
the same entries faster but may drop any of them. A worker claims a job, which fences every earlier
attempt, and appends; a reader subscribes, replays the log, follows the channel and fills any gap
from the log. Nothing here knows what the text means or who reads it.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from redis.client import Pipeline, PubSub
from redis.exceptions import RedisError, ResponseError

from broker import keys
from broker.errors import ErrorBody, JobNotFound, RedisUnavailable
from broker.messages import (
    START,
    Delta,
    End,
    Event,
    EventId,
    Failed,
    GenerateRequest,
    decode_event,
    encode_event,
    is_terminal,
)

log = logging.getLogger(__name__)

RESYNC_S = 5.0
"""Silence after which a reader looks into the log, should the channel have lost something."""

GIVE_UP_S = 15.0
"""How long a reader rides out a Redis that does not answer."""

# One step: nobody can append between the new claim and the replay of what came before it.
_CLAIM = """
local request = redis.call('HGET', KEYS[1], 'request')
if not request then return false end
local log = redis.call('XRANGE', KEYS[2], '-', '+')
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
local id = attempt .. '-0'
redis.call('HSET', KEYS[1], 'state', 'running', 'worker', ARGV[1])
redis.call('XADD', KEYS[2], id, 'k', 'claim', 'w', ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', KEYS[3], cjson.encode({id, {k='claim', w=ARGV[1]}}))
return {attempt, request, redis.call('HGET', KEYS[1], 'cancel') or '', log}
"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a worker learns when it takes a job.

    `token_ids` and `text` are what earlier attempts have published; `ended` says that the log
    already holds a terminal event and nothing is left to do.
    """

    attempt: int
    request: GenerateRequest
    cancelled: bool
    token_ids: tuple[int, ...]
    text: str
    ended: bool


def claim(pipe: Pipeline, job_id: str, worker_id: str) -> None:
    """Queue on `pipe` the claim of a job; read its reply with `read_claim`."""
    pipe.eval(
        _CLAIM,
        3,
        keys.job(job_id),
        keys.events(job_id),
        keys.live(job_id),
        worker_id,
        str(keys.EVENTS_TTL_S),
    )


def read_claim(reply: Any) -> Claimed | None:
    """Read the reply to `claim`; None when the job's record has expired."""
    if not reply:
        return None
    attempt, request, cancel, entries = reply
    events = [_decode(entry_id, fields) for entry_id, fields in entries]
    told = [event for event in events if isinstance(event, Delta | End)]
    return Claimed(
        attempt=int(attempt),
        request=GenerateRequest.model_validate_json(request),
        cancelled=cancel == b"1",
        token_ids=tuple(token for event in told for token in event.token_ids),
        text="".join(event.text for event in told),
        ended=any(map(is_terminal, events)),
    )


def append(client: redis.Redis, batch: Iterable[tuple[str, Event]]) -> set[str]:
    """Append events to their jobs' logs and publish them, in one round trip.

    A repeated append is harmless: the stream refuses an id that is not greater than its last.

    Args:
        client: any client; it may retry.
        batch: (job id, event) pairs, in order within a job.

    Returns:
        Ids of the jobs that another attempt has taken over (fenced): write to them no more.

    Raises:
        RedisError: Redis did not answer; the whole batch may be appended again.
    """
    written = list(batch)
    pipe = client.pipeline(transaction=False)
    for job_id, event in written:
        fields = encode_event(event)
        pipe.xadd(keys.events(job_id), fields, id=str(event.id))  # type: ignore[arg-type]
        pipe.publish(keys.live(job_id), json.dumps((str(event.id), fields)))
        if is_terminal(event):
            state = "done" if isinstance(event, End) else "failed"
            pipe.hset(keys.job(job_id), "state", state)
            pipe.expire(keys.events(job_id), keys.ENDED_EVENTS_TTL_S)
    replies = iter(pipe.execute(raise_on_error=False))
    refused: dict[str, int] = {}
    for job_id, event in written:
        reply = next(replies)
        for _ in range(3 if is_terminal(event) else 1):
            next(replies)
        if isinstance(reply, ResponseError) and "equal or smaller" in str(reply):
            refused[job_id] = event.id.attempt
        elif isinstance(reply, Exception):
            raise reply
    return {job_id for job_id, attempt in refused.items() if _last(client, job_id) != attempt}


def _last(client: redis.Redis, job_id: str) -> int:
    entries: Any = client.xrevrange(keys.events(job_id), count=1)
    return _event_id(entries[0][0]).attempt if entries else 0


def fail(client: redis.Redis, job_id: str, owner: str, error: ErrorBody) -> None:
    """End a job that nobody runs any more, unless its log already has an end."""
    pipe = client.pipeline(transaction=False)
    claim(pipe, job_id, owner)
    claimed = read_claim(pipe.execute()[0])
    if claimed is not None and not claimed.ended:
        append(client, [(job_id, Failed(EventId(claimed.attempt, 1), error))])


def read_log(client: redis.Redis, job_id: str, after: EventId = START) -> list[Event]:
    """Events of a job after the given id, in order."""
    low = "-" if after == START else f"({after}"
    entries: Any = client.xrange(keys.events(job_id), low, "+")
    return [_decode(entry_id, fields) for entry_id, fields in entries]


def _event_id(raw: bytes) -> EventId:
    return EventId.parse(raw.decode())


def _decode(entry_id: bytes, fields: Any) -> Event:
    if isinstance(fields, list):  # a script's reply: a flat list
        fields = dict(zip(fields[::2], fields[1::2], strict=True))
    return decode_event(
        _event_id(entry_id), {key.decode(): value.decode() for key, value in fields.items()}
    )


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

    def follow(
        self, job_id: str, after: EventId = START, *, tick_s: float = 1.0
    ) -> Iterator[Event | None]:
        """Yield a job's events after `after`, in order and without gaps, up to its terminal one.

        None is yielded when `tick_s` seconds pass without an event, so that the caller can look
        after its client.

        Raises:
            JobNotFound: there is no such job, or its record has expired or was lost.
            RedisUnavailable: Redis did not answer for `GIVE_UP_S` seconds.
        """
        with self._inbox(job_id) as inbox:
            last = after
            yield_from_log = True
            quiet_since = unreachable_since = time.monotonic()
            while True:
                if yield_from_log:
                    try:
                        missed = self._replay(job_id, last)
                    except RedisError as error:
                        if time.monotonic() - unreachable_since > GIVE_UP_S:
                            raise RedisUnavailable(
                                "Redis has not answered for a while, so the rest of the answer "
                                "cannot be read. The job may still finish: resume it by its id."
                            ) from error
                        yield None
                        time.sleep(0.2)
                        continue
                    for event in missed:
                        yield event
                        last = event.id
                        if is_terminal(event):
                            return
                    yield_from_log = False
                    quiet_since = unreachable_since = time.monotonic()
                try:
                    news = inbox.get(timeout=tick_s)
                except queue.Empty:
                    unreachable_since = time.monotonic()
                    yield_from_log = unreachable_since - quiet_since > RESYNC_S
                    yield None
                    continue
                if news is None or not _follows(news.id, last):
                    unreachable_since = time.monotonic()
                    yield_from_log = news is None or news.id > last
                    continue
                quiet_since = time.monotonic()
                yield news
                last = news.id
                if is_terminal(news):
                    return

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
