"""The bound of a queue, kept exactly, however many come at once.

Who comes is counted before its request is written, together with those who wait already; from the
transaction that enqueues it on it is one of them. Who dies in between is forgotten after a while.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from typing import Any, Final

import redis
from redis.client import Pipeline

from broker import estimates, keys
from broker.errors import QueueFull

COMING_S: Final = 5
"""Nobody takes that long to enqueue a request."""

AHEAD_S: Final = COMING_S - 2.0
"""How long a place that was taken ahead can be given to somebody who comes."""

_SHARE: Final = 64
"""One process takes about this part of a queue's places ahead, and never of its fuller half."""

_ENTER = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.3f', now))
local length = redis.call('LLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2])
if length < tonumber(ARGV[2]) then
  redis.call('ZADD', KEYS[2], string.format('%.3f', now + ARGV[3]), ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
return length
"""


class Entrance:
    """Gives the places of one queue to those who come to it through this process.

    While there is room enough, each transaction that enqueues somebody also takes a place ahead,
    which spares whoever comes next to ask for one. The fewer places a queue has, the fewer are
    taken ahead, since to other processes they are taken.
    """

    def __init__(self, client: redis.Redis, queue: str, model: str, most: int) -> None:
        """Let at most `most` requests for a model into the Redis list `queue`."""
        self._client = client
        self._queue = queue
        self._model = model
        self._most = most
        self._ahead: deque[tuple[str, float]] = deque()

    def enter(self, jobs_per_s: float) -> str:
        """Take a place and return its name; the transaction that enqueues the request gives it up.

        Raises:
            QueueFull: there is none; `jobs_per_s`, 0 if it is not known, tells when there is.
        """
        while self._ahead:
            try:
                place, until_s = self._ahead.popleft()
            except IndexError:  # somebody else was quicker
                break
            if time.monotonic() < until_s:
                return place
        place = uuid.uuid4().hex
        length: Any = self._ask(self._client, place, self._most)
        if length < self._most:
            return place
        raise QueueFull(
            f"{length} requests already wait for model {self._model!r}, which is the limit. "
            "Try again later.",
            retry_after_s=estimates.retry_after_s(length - self._most + 1, jobs_per_s),
        )

    def leave(self, client: redis.Redis | Pipeline, place: str) -> None:
        """Give a place up: its request is enqueued in this pipe's transaction, or will not be."""
        client.zrem(keys.coming(self._model), place)

    def ask_ahead(self, pipe: Pipeline) -> str:
        """Queue on `pipe` the question for a place for whoever comes next; empty if none is needed.

        `note_ahead` takes the reply.
        """
        if len(self._ahead) >= self._most // _SHARE:
            return ""
        place = uuid.uuid4().hex
        self._ask(pipe, place, self._most // 2)
        return place

    def note_ahead(self, place: str, reply: Any, asked_s: float) -> None:
        """Take note of what was said at `asked_s`, by `time.monotonic`, to `ask_ahead`."""
        if reply < self._most // 2:
            self._ahead.append((place, asked_s + AHEAD_S))

    def _ask(self, client: redis.Redis | Pipeline, place: str, most: int) -> Any:
        coming = keys.coming(self._model)
        return client.eval(_ENTER, 2, self._queue, coming, place, str(most), str(COMING_S))
