"""The last hour of each model: how many jobs waited, how fast tokens came, how soon the first did.

Every worker adds a sample each few seconds; readers put the samples of all workers together. It
lives in Redis, so it survives any process, and what is older than an hour goes by itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Self

import redis
from redis.client import Pipeline

from broker import keys
from broker.queues import queue_key

SPAN_S: Final = 3600
PERIOD_S: Final = 5.0
"""Time between two samples of a worker."""

MAX_FIRST_TOKENS: Final = 50
"""Times to first token that one sample tells, the newest ones."""

_ADD = """
local time = redis.call('TIME')
local oldest = (time[1] - ARGV[1]) * 1000
redis.call('XADD', KEYS[1], 'MINID', '~', string.format('%.0f', oldest), '*',
  'w', ARGV[3], 's', ARGV[4], 't', ARGV[5], 'r', ARGV[6], 'f', ARGV[7],
  'q', redis.call('LLEN', KEYS[2]))
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a worker has seen since its last sample.

    It covers `seconds`, in which `tokens` were told; `running` jobs were there at its end, and
    `first_tokens_s` are the seconds from submission to first token of the answers that ended.
    """

    worker: str
    seconds: float
    tokens: int
    running: int
    first_tokens_s: tuple[float, ...] = ()


def add(pipe: Pipeline, model: str, sample: Sample) -> None:
    """Queue on `pipe` a worker's sample; the length of the model's queue is added to it."""
    firsts = sample.first_tokens_s[-MAX_FIRST_TOKENS:]
    pipe.eval(
        _ADD,
        2,
        keys.history(model),
        queue_key(model),
        str(SPAN_S),
        str(2 * SPAN_S),
        sample.worker,
        f"{sample.seconds:.3f}",
        str(sample.tokens),
        str(sample.running),
        " ".join(f"{each:.4f}" for each in firsts),
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """A sample, when it was added (Unix seconds by Redis), and how many jobs waited then."""

    at_s: float
    queued: int
    sample: Sample

    @classmethod
    def of(cls, entry_id: bytes, fields: dict[bytes, bytes]) -> Self:
        """Read an entry of the stream.

        Raises:
            KeyError, ValueError: it is none of ours.
        """
        sample = Sample(
            worker=fields[b"w"].decode(),
            seconds=float(fields[b"s"]),
            tokens=int(fields[b"t"]),
            running=int(fields[b"r"]),
            first_tokens_s=tuple(map(float, fields[b"f"].split())),
        )
        return cls(int(entry_id.partition(b"-")[0]) / 1000, int(fields[b"q"]), sample)


@dataclass(frozen=True, slots=True)
class Point:
    """A model, over the time that ends at `at_s` (Unix seconds).

    `queued` is the most that waited, `running` and `tokens_per_s` are sums over the workers, and
    the times to first token, of the answers that ended, are None if none did.
    """

    at_s: float
    queued: int
    running: float
    tokens_per_s: float
    first_token_s: float | None
    slow_first_token_s: float | None
    """Nineteen of twenty answers began within this."""


class History:
    """The samples of the last hour, as far as this process has read them; for any thread."""

    def __init__(self, client: redis.Redis) -> None:
        """Read with `client`, and only what is new since the last time."""
        self._client = client
        self._lock = threading.Lock()
        self._seen: dict[str, deque[_Seen]] = {}
        self._last: dict[str, bytes] = {}

    def points(self, model: str, count: int = 120, span_s: float = SPAN_S) -> list[Point]:
        """A model's last `span_s` seconds in `count` parts of equal length, the oldest first.

        The parts end at multiples of their length, so that they stay what they were from one
        reading to the next; the last one is still going on.

        Raises:
            RedisError: Redis did not answer.
        """
        with self._lock:
            seconds, _ = self._client.time()
            seen = self._update(model, seconds - span_s)
        length = span_s / count
        last = int(seconds // length)
        parts: dict[int, list[_Seen]] = {last - place: [] for place in reversed(range(count))}
        for each in seen:
            if (part := parts.get(int(each.at_s // length))) is not None:
                part.append(each)
        return [_point(part, (number + 1) * length, length) for number, part in parts.items()]

    def _update(self, model: str, oldest_s: float) -> Sequence[_Seen]:
        seen = self._seen.setdefault(model, deque())
        after = self._last.get(model, str(int(1000 * oldest_s)).encode())
        entries: Any = self._client.xrange(keys.history(model), b"(" + after, "+")
        for entry_id, fields in entries:
            self._last[model] = entry_id
            try:
                seen.append(_Seen.of(entry_id, fields))
            except (KeyError, ValueError):
                continue
        while seen and seen[0].at_s < oldest_s:
            seen.popleft()
        return tuple(seen)


def _point(seen: Sequence[_Seen], at_s: float, length_s: float) -> Point:
    by_worker: dict[str, list[int]] = {}
    for each in seen:
        by_worker.setdefault(each.sample.worker, []).append(each.sample.running)
    firsts = sorted(first for each in seen for first in each.sample.first_tokens_s)
    return Point(
        at_s=at_s,
        queued=max((each.queued for each in seen), default=0),
        running=sum(sum(counts) / len(counts) for counts in by_worker.values()),
        tokens_per_s=sum(each.sample.tokens for each in seen) / length_s,
        first_token_s=median(firsts) if firsts else None,
        slow_first_token_s=firsts[int(0.95 * len(firsts))] if firsts else None,
    )


class Recorder:
    """Collects what one worker adds; `note` and `sample` may be called by different threads."""

    def __init__(self, worker: str, clock: Callable[[], float]) -> None:
        """Begin now; `clock` tells seconds and only goes forward."""
        self._worker = worker
        self._clock = clock
        self._since_s = clock()
        self._tokens = 0
        self._firsts_s: deque[float] = deque(maxlen=MAX_FIRST_TOKENS)

    def note(self, first_token_s: float) -> None:
        """Count an answer that has ended."""
        self._firsts_s.append(first_token_s)

    def sample(self, tokens: int, running: int) -> Sample | None:
        """The next sample if it is time for one; `tokens` is counted from the worker's start."""
        now_s = self._clock()
        if (seconds := now_s - self._since_s) < PERIOD_S:
            return None
        firsts = tuple(self._firsts_s.popleft() for _ in range(len(self._firsts_s)))
        made = Sample(self._worker, seconds, tokens - self._tokens, running, firsts)
        self._since_s, self._tokens = now_s, tokens
        return made
