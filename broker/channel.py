"""The token channel: a job's events, numbered, logged and published.

The log (a stream whose entry ids are `<attempt>-<n>`, each with one field `m`, the event as it is
published) is the one source of order; pub/sub is faster but may drop any of them. A worker claims a
job, which fences every earlier attempt, and appends; a reader subscribes, replays the log, follows
the channel and fills any gap from the log. Nothing here knows what the text means or who reads it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import redis
from redis.client import Pipeline
from redis.exceptions import NoScriptError

from broker import keys
from broker.attempts import ALLOW_OOM, NEXT_ATTEMPT
from broker.errors import ErrorBody, WorkerFailed
from broker.events import (
    START,
    Delta,
    End,
    Entry,
    Event,
    EventId,
    Failed,
    decode_event,
    decode_message,
    is_terminal,
)
from broker.messages import GenerateRequest

log = logging.getLogger(__name__)

# One step: nobody can append between the new claim and the replay of what came before it.
_CLAIM = f"""
{NEXT_ATTEMPT}
local request = redis.call('HGET', KEYS[1], 'request')
if not request then return false end
local missed = ''
local by = redis.call('HGET', KEYS[1], 'start_by')
if by then
  local time = redis.call('TIME')
  if tonumber(by) < time[1] + time[2] / 1000000 then
    missed = redis.call('HGET', KEYS[1], 'start_within')
  else
    redis.call('HDEL', KEYS[1], 'start_by')
    redis.call('ZREM', KEYS[4], ARGV[3])
  end
end
local log = redis.call('XRANGE', KEYS[2], '-', '+')
local attempt = next_attempt(KEYS[1], KEYS[5])
local id = attempt .. '-0'
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'done' and state ~= 'failed' and state ~= 'cancelled' then
  redis.call('HSET', KEYS[1], 'state', 'running', 'worker', ARGV[1])
end
local message = cjson.encode({{id, {{k='claim', w=ARGV[1]}}}})
redis.call('XADD', KEYS[2], id, 'm', message)
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', KEYS[3], message)
return {{attempt, request, redis.call('HGET', KEYS[1], 'cancel') or '', log,
  redis.call('HGET', KEYS[1], 'failures') or '0', missed}}
"""

# For each event three keys (log, channel, job) and three values (what is published, the job's new
# state or nothing, how long the log is before it or nothing). Returns two lists of places, from 0.
# Fenced: those that came too late; an id of our own attempt was only repeated, another's has taken
# the job over. Cut: those whose log lacks something before them.
_APPEND = f"""{ALLOW_OOM}
local fenced, cut = {{}}, {{}}
local function append(place, log, live, job, message, state)
  local id = string.match(message, '^%["(%d+%-%d+)"')
  local reply = redis.pcall('XADD', log, id, 'm', message)
  local last = id
  if not reply.err then
    redis.call('PUBLISH', live, message)
  elseif string.find(reply.err, 'equal or smaller') then
    local found = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    last = found and found[1] or id
  else
    return reply
  end
  if last ~= id and string.match(last, '%d+') ~= string.match(id, '%d+') then
    fenced[#fenced + 1] = place
  elseif state ~= '' then
    redis.call('HSET', job, 'state', state)
    redis.call('EXPIRE', log, redis.call('HGET', job, 'keep_s') or ARGV[1])
  end
end
for place = 0, #KEYS / 3 - 1 do
  local log, live, job = KEYS[3 * place + 1], KEYS[3 * place + 2], KEYS[3 * place + 3]
  local message, state, length = unpack(ARGV, 3 * place + 2, 3 * place + 4)
  if length ~= '' and redis.call('XLEN', log) < tonumber(length) then
    cut[#cut + 1] = place
  else
    local failure = append(place, log, live, job, message, state)
    if failure then return failure end
  end
end
return {{fenced, cut}}
"""
_APPEND_SHA = hashlib.sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a worker learns when it takes a job.

    `text` is what earlier attempts have published, and `token_ids` are the tokens behind it: none
    if they are not known for all of it. `ended` says that the log already holds a terminal event
    and nothing is left to do. `failures` counts upstreams that failed at earlier attempts.
    `missed_s` is the time within which the job was to be started if that has passed: then it may
    not start any more, whoever claims it. Else it is 0, and the deadline is over with this claim.
    `logged` is how many entries the log had before the claim.
    """

    attempt: int
    request: GenerateRequest
    cancelled: bool
    token_ids: tuple[int, ...]
    text: str
    ended: bool
    failures: int = 0
    missed_s: float = 0.0
    logged: int = 0


class Appended(NamedTuple):
    """Ids of jobs to which nothing was appended, and why.

    `fenced`: another attempt has taken them over, write to them no more. `cut`: their logs lack
    what was appended before, see `broker.loss`.
    """

    fenced: set[str]
    cut: set[str]


def claim(pipe: Pipeline, job_id: str, worker_id: str) -> None:
    """Queue on `pipe` the claim of a job; read its reply with `read_claim`."""
    pipe.eval(
        _CLAIM,
        5,
        keys.job(job_id),
        keys.events(job_id),
        keys.live(job_id),
        keys.START_BY,
        keys.SERVER,
        worker_id,
        str(keys.EVENTS_TTL_S),
        job_id,
    )


class Unreadable(WorkerFailed):
    """A claimed job whose record this version cannot read; `attempt` is the claim's."""

    def __init__(self, attempt: int) -> None:
        super().__init__(
            "The worker cannot read this request: it was written by another version. "
            "Update the workers first, then the frontends."
        )
        self.attempt = attempt


def read_claim(reply: Any) -> Claimed | None:
    """Read the reply to `claim`; None when the job's record has expired.

    Raises:
        Unreadable: it is a record of another version.
    """
    if not reply:
        return None
    attempt, record, cancel, entries, failures, missed = reply
    try:
        request = GenerateRequest.model_validate_json(record)
        events = [_decode(entry_id, fields) for entry_id, fields in entries]
    except ValueError as error:
        raise Unreadable(int(attempt)) from error
    told = [event for event in events if isinstance(event, Delta | End)]
    return Claimed(
        attempt=int(attempt),
        request=request,
        cancelled=cancel == b"1",
        token_ids=_token_ids(told),
        text="".join(event.text for event in told),
        ended=any(map(is_terminal, events)),
        failures=int(failures),
        missed_s=float(missed or 0),
        logged=len(entries),
    )


def _token_ids(told: Sequence[Delta | End]) -> tuple[int, ...]:
    if any(event.text and not event.token_ids for event in told):
        return ()
    return tuple(token for event in told for token in event.token_ids)


def append(
    client: redis.Redis,
    batch: Iterable[tuple[str, Event]],
    logged: Mapping[str, int] = MappingProxyType({}),
) -> Appended:
    """Append events to their jobs' logs and publish them, in one command.

    A repeated append is harmless: the stream refuses an id that is not greater than its last. It
    goes on when Redis is full: what was accepted may end.

    Args:
        client: any client; it may retry.
        batch: (job id, event) pairs, in order within a job.
        logged: how many entries the log of a job had before the claim of this attempt; what is
            named here is only appended where nothing is missing before it.

    Raises:
        RedisError: Redis did not answer; the whole batch may be appended again.
    """
    return write(client, [(job_id, Entry.of(event)) for job_id, event in batch], logged)


def write(
    client: redis.Redis, written: Sequence[tuple[str, Entry]], logged: Mapping[str, int]
) -> Appended:
    """Append events that are written already, see `append`."""
    names: list[str] = []
    values: list[str | bytes] = [str(keys.ENDED_EVENTS_TTL_S)]
    for job_id, entry in written:
        names += (keys.events(job_id), keys.live(job_id), keys.job(job_id))
        before = logged.get(job_id)
        length = "" if before is None else str(before + entry.id.n)
        values += (entry.message, entry.state, length)
    try:
        places: Any = client.evalsha(_APPEND_SHA, len(names), *names, *values)
    except NoScriptError:
        places = client.eval(_APPEND, len(names), *names, *values)
    return Appended(*({written[place][0] for place in each} for each in places))


def fail(client: redis.Redis, job_id: str, owner: str, error: ErrorBody) -> None:
    """End a job that nobody runs any more, unless its log already has an end."""
    pipe = client.pipeline(transaction=False)
    claim(pipe, job_id, owner)
    try:
        claimed = read_claim(pipe.execute()[0])
    except Unreadable as unreadable:
        refuse(client, job_id, unreadable)
        return
    if claimed is not None and not claimed.ended:
        append(client, [(job_id, Failed(EventId(claimed.attempt, 1), error))])


def refuse(client: redis.Redis, job_id: str, unreadable: Unreadable) -> None:
    """End a claimed job that cannot be read."""
    append(client, [(job_id, Failed(EventId(unreadable.attempt, 1), unreadable.body))])


def read_log(
    client: redis.Redis, job_id: str, after: EventId = START, count: int | None = None
) -> list[Event]:
    """Events of a job after the given id, in order, at most `count`."""
    low = "-" if after == START else f"({after}"
    entries: Any = client.xrange(keys.events(job_id), low, "+", count)
    return [_decode(entry_id, fields) for entry_id, fields in entries]


def _decode(entry_id: bytes, fields: Any) -> Event:
    if isinstance(fields, list):  # a script's reply: a flat list
        fields = dict(zip(fields[::2], fields[1::2], strict=True))
    if b"m" in fields:
        return decode_message(fields[b"m"])
    # Before there was `m` the event's fields were the entry's; a chat's log lasts for a month.
    told = {key.decode(): value.decode() for key, value in fields.items()}
    return decode_event(EventId.parse(entry_id.decode()), told)
