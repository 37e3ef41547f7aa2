"""Reading the token channel: a job's events in order, each once, whatever pub/sub drops.

A reader subscribes, replays the log, follows the channel and fills any gap from the log. Who
expects a job before it is submitted has nothing to replay. Knows nothing of who reads or why.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any

import redis
from redis.exceptions import RedisError

from broker import keys
from broker.channel import read_log
from broker.errors import AnswerExpired, JobLost, JobNotFound, RedisUnavailable
from broker.events import START, Event, EventId, is_terminal
from broker.jobs import ENDED
from broker.listener import Inbox, Listener
from broker.outage import Outage

RESYNC_S = 5.0
"""Silence after which a reader looks into the log, should the channel have lost something."""

GIVE_UP_S = 13.0
"""How long a reader rides out a Redis that does not answer, from when it finds out: at once if the
connection is lost, after `RESYNC_S` if it hangs."""

PAGE = 256
"""Events that a reader takes out of the log at a time."""

_RETRY_S = 0.2

Events = Generator[Event | None, None, None]
"""Events in order, None where the reader may look after other things; close it to stop reading."""


class Subscriber:
    """Reads jobs for all readers of a process, over its one pub/sub connection."""

    def __init__(self, client: redis.Redis, outage: Outage | None = None) -> None:
        """Start nothing yet: the connection opens with the first `follow`.

        Args:
            client: makes the connections; one is kept for pub/sub, others serve reads. It should
                not retry: a reader does so itself, and looks after other things in between.
            outage: the one of this process, its own by default.
        """
        self._client = client
        self._listener = Listener(client, outage or Outage())

    def close(self) -> None:
        """Hear nothing any more; for tests and short programs."""
        self._listener.close()

    def expect(self, job_id: str) -> AbstractContextManager[Callable[[], None]]:
        """Be ready for a job that is submitted in the block and then followed, see `Listener`."""
        return self._listener.expect(job_id)

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
        with self._listener.inbox(job_id) as inbox:
            for event in self._events(job_id, inbox, after, tick_s):
                if event is None or event.id > last:
                    yield event
                if event is not None:
                    last = max(last, event.id)
                    if is_terminal(event):
                        return

    def _events(
        self, job_id: str, inbox: Inbox, last: EventId, tick_s: float
    ) -> Iterator[Event | None]:
        """Log, then channel, then log again whenever the channel may have lost something."""
        known = last > START
        is_told = inbox.is_whole and not known
        while True:
            if not is_told:
                for event in self._replay_patiently(job_id, last, known):
                    yield event
                    last = event.id if event is not None else last
            quiet_since, known, is_told = time.monotonic(), True, False
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
        if not self._listener.is_connected:  # one looks for Redis, not each of a thousand readers
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


def _follows(new: EventId, last: EventId) -> bool:
    """Whether `new` comes directly after `last`; at a later claim the log must be asked."""
    first_claim = last == START and new == EventId(1, 0)
    return first_claim or (new.attempt == last.attempt and new.n == last.n + 1)
