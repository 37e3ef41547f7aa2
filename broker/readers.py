"""Who reads a job, and what becomes of it when nobody does: its rule `on_disconnect`.

Each reader holds a lease in the job's own sorted set, so that the last one to leave knows it, on
whatever process. A job of the rule `grace:SECONDS` has a deadline in `helio:deadlines` all the
time; its readers move it on, so it also comes when the process that read the job has died. All
times are Redis's own. Knows nothing of sockets.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Mapping
from typing import Any, Final

import redis
from redis.exceptions import RedisError

from broker import cancellation, keys
from broker.attempts import ALLOW_OOM
from broker.errors import InvalidRequest
from broker.outage import Outage

CANCEL: Final = "cancel"
DETACH: Final = "detach"

RENEW_S: Final = 1.0

_GRACE = re.compile("grace:([1-9][0-9]{0,3})")

_NOW = f"""{ALLOW_OOM}
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function later(seconds) return string.format('%.3f', now + seconds) end
local function grace(job)
  return tonumber(string.match(redis.call('HGET', job, 'on_disconnect') or '', '^grace:(%d+)$'))
end
"""

# For each reader two keys (readers, job) and two values (job id, reader).
_HOLD = (
    _NOW
    + """
for place = 1, #KEYS - 1, 2 do
  local readers, job = KEYS[place + 1], KEYS[place + 2]
  local id, reader = ARGV[place + 1], ARGV[place + 2]
  redis.call('ZADD', readers, later(ARGV[1]), reader)
  redis.call('EXPIRE', readers, ARGV[1])
  local seconds = grace(job)
  if seconds then redis.call('ZADD', KEYS[1], later(ARGV[1] + seconds), id) end
end
"""
)

# Leases that ran out are no readers. Returns whether the job shall be cancelled. A lease that is
# left may be of a dead process, which will not leave, and after an outage those of the living have
# yet to be renewed (`late`): then the job is looked at when both is over.
_LEAVE = (
    _NOW
    + """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', later(0))
local cancel = redis.call('HGET', KEYS[2], 'on_disconnect') == 'cancel'
local is_read = redis.call('ZCARD', KEYS[1]) > 0
if cancel and (is_read or ARGV[4] == 'late') then
  redis.call('ZADD', KEYS[3], later(ARGV[3]), ARGV[2])
  return 0
end
if is_read then return 0 end
local seconds = grace(KEYS[2])
if seconds then redis.call('ZADD', KEYS[3], later(seconds), ARGV[2]) end
return cancel and 1 or 0
"""
)

# Most of them have long ended, and are only forgotten, as are those of the rule `cancel` that are
# read: who leaves last cancels them.
_OVERDUE = (
    _NOW
    + """
local left = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', later(0), 'LIMIT', 0, 1000)) do
  local job = ARGV[1] .. id
  local state = redis.call('HGET', job, 'state')
  local is_read = redis.call('HGET', job, 'on_disconnect') == 'cancel'
    and redis.call('ZCOUNT', job .. ARGV[2], later(0), '+inf') > 0
  if (state == 'queued' or state == 'running') and not is_read then left[#left + 1] = id
  else redis.call('ZREM', KEYS[1], id) end
end
return left
"""
)


def new_reader() -> str:
    """Draw the id of one more reader."""
    return uuid.uuid4().hex


def hold(client: redis.Redis, jobs: Mapping[str, str]) -> None:
    """Take or renew the leases of readers, each with the id of its job.

    Args:
        client: a client, or a pipeline that has the jobs' records written before.
        jobs: job id by reader.
    """
    names, values = [keys.DEADLINES], [str(keys.READER_TTL_S)]
    for reader, job_id in jobs.items():
        names += (keys.readers(job_id), keys.job(job_id))
        values += (job_id, reader)
    client.eval(_HOLD, len(names), *names, *values)


def check_rule(rule: str) -> str:
    """Return a rule that `on_disconnect` may have.

    Raises:
        InvalidRequest: it is another.
    """
    found = _GRACE.fullmatch(rule)
    if rule in (CANCEL, DETACH) or (found and int(found[1]) <= keys.MAX_GRACE_S):
        return rule
    raise InvalidRequest(
        "on_disconnect: it must be 'cancel', 'detach' or 'grace:SECONDS' with 1 to "
        f"{keys.MAX_GRACE_S} seconds; {rule[:40]!r} was sent.",
        param="on_disconnect",
    )


class Readers:
    """The readers of one process; a thread renews their leases."""

    def __init__(self, client: redis.Redis, outage: Outage | None = None) -> None:
        """Start nothing yet: the thread starts with the first reader.

        `outage` is the one of this process, its own by default.
        """
        self._client = client
        self._outage = outage or Outage()
        self._lock = threading.Lock()
        self._jobs: dict[str, str] = {}
        self._leaving: dict[str, str] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def arrive(self, job_id: str, reader: str = "") -> str:
        """Renew the lease of a reader from now on, and return the reader's id.

        Without an id it is a new one, which takes its lease here. A Redis that does not answer at
        the moment is told with the next renewal.
        """
        if not reader:
            reader = new_reader()
            self._try_hold({reader: job_id})
        with self._lock:
            self._jobs[reader] = job_id
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, name="readers", daemon=True)
                self._thread.start()
        return reader

    def release(self, reader: str) -> None:
        """Forget a reader whose job has ended; its lease runs out by itself."""
        with self._lock:
            self._jobs.pop(reader, None)

    def leave(self, reader: str) -> bool:
        """Give a lease up, and cancel the job if nobody else reads it and its rule says so.

        Returns:
            Whether it was cancelled.

        Raises:
            RedisError: Redis did not answer; it is told when it does.
        """
        with self._lock:
            job_id = self._jobs.pop(reader)
        try:
            return self._leave(reader, job_id)
        except RedisError:
            with self._lock:
                self._leaving[reader] = job_id
            raise

    def _leave(self, reader: str, job_id: str, late: str = "") -> bool:
        names = (keys.readers(job_id), keys.job(job_id), keys.DEADLINES)
        values = (reader, job_id, keys.READER_TTL_S, late)
        if not self._client.eval(_LEAVE, len(names), *names, *values):
            return False
        return cancellation.cancel(self._client, job_id)

    def close(self) -> None:
        """End the thread; for tests and short programs."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _renew(self) -> None:
        while not self._closed.wait(RENEW_S):
            with self._lock:  # a lease must not come back after its reader has left
                if self._jobs:
                    self._try_hold(self._jobs)
                else:
                    self._outage.end("readers' leases")
            self._try_leave()

    def _try_leave(self) -> None:
        """Tell Redis of those that left while it was away; from then on nobody waits for it."""
        for reader, job_id in tuple(self._leaving.items()):
            try:
                self._leave(reader, job_id, "late")
            except RedisError:
                return
            with self._lock:
                del self._leaving[reader]

    def _try_hold(self, jobs: Mapping[str, str]) -> None:
        try:
            hold(self._client, jobs)
            self._outage.end("readers' leases")
        except RedisError as error:
            self._outage.begin("readers' leases", error)


def cancel_overdue(client: redis.Redis) -> list[str]:
    """Cancel the jobs to which nobody has come back in time, and return their ids."""
    overdue: Any = client.eval(
        _OVERDUE, 1, keys.DEADLINES, keys.job(""), keys.readers("").removeprefix(keys.job(""))
    )
    job_ids = [raw.decode() for raw in overdue]
    for job_id in job_ids:
        cancellation.cancel(client, job_id)
        client.zrem(keys.DEADLINES, job_id)  # afterwards: who dies in between has lost nothing
    return job_ids
