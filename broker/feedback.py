"""The chat log and the votes, as two Redis streams that redis-cli can read.

`helio:log:chats` gets one entry per ended job; `helio:log:feedback` one per vote: on an answer, or
on two answers side by side (a battle). A vote has all that it is about in it, conversation and
answer included, for jobs expire and the chat log is capped. `broker.exports` reads both.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import redis
from redis.client import Pipeline

from broker import jobs, keys, pages
from broker.channel import read_log
from broker.errors import ErrorBody, InvalidRequest
from broker.events import Delta, End, Timings, Usage
from broker.messages import ChatMessage, GenerateRequest

Vote = Literal["upvote", "downvote", "flag"]
Outcome = Literal["left", "right", "tie", "bothbad"]
"""Of a battle: which answer is better; `tie` are two good ones."""

MAX_REASON: Final = 200
MAX_COMMENT: Final = 2000
"""Characters of what may be written beside a vote."""

_SEARCHED_CHATS: Final = 5000
_CLOCKS_APART_S: Final = 60

# Who asked is in the job's record: workers are not told.
_CHAT = """
local ip = redis.call('HGET', KEYS[1], 'ip') or ''
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', 'ip', ip, unpack(ARGV, 2))
"""

# Votes once: the pair's record and the entry are made in one step. A repeated command, whose reply
# was lost, is told from a second vote by its number.
_BATTLE = """
local number, id = unpack(redis.call('HMGET', KEYS[1], 'number', 'id'))
if number then return number == ARGV[1] and id end
id = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
redis.call('HSET', KEYS[1], 'number', ARGV[1], 'id', id)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return id
"""


def log_chat(
    pipe: Pipeline,
    request: GenerateRequest,
    worker: str,
    answer: str,
    outcome: str,
    usage: Usage,
    timings: Timings,
    error: ErrorBody | None = None,
) -> None:
    """Queue on `pipe` the entry of an ended job; `outcome` is its finish reason or "error".

    The address that it was asked from comes from the job's record, see `note_ip`.
    """
    fields = {
        "job": request.id,
        "model": request.model,
        "worker": worker,
        "outcome": outcome,
        "messages": _dump(request.messages),
        "answer": answer,
        "params": request.sampling.model_dump_json(),
        "images": " ".join(request.images),
        "usage": f"{usage.prompt_tokens} {usage.completion_tokens}",
        "start": f"{request.created_s:.4f}",
        "finish": f"{request.created_s + timings.total_s:.4f}",
        "error": error.code if error else "",
    }
    pairs = [text for pair in fields.items() for text in pair]
    length = str(keys.CHAT_LOG_LENGTH)
    pipe.eval(_CHAT, 2, keys.job(request.id), keys.CHAT_LOG, length, *pairs)


def note_ip(pipe: Pipeline, job_id: str, ip: str) -> None:
    """Queue on `pipe` the address that a job was asked from, for the chat log."""
    pipe.hset(keys.job(job_id), "ip", ip)


def vote(
    client: redis.Redis,
    job_id: str,
    kind: Vote,
    reason: str = "",
    *,
    comment: str = "",
    ip: str = "",
    replaces: str = "",
) -> str:
    """Record a vote on a job's answer and return the entry's id.

    The answer is what the job has told so far; none if that is no longer to be found. `replaces` is
    the entry of the same vote without the words, which goes in the same step.

    Raises:
        InvalidRequest: the kind is unknown, or reason or comment is too long.
        JobNotFound: the job's record has expired or never existed.
    """
    if kind not in get_args(Vote):
        raise InvalidRequest(f"Vote {kind!r} is unknown: use {', '.join(get_args(Vote))}.")
    words = _words(reason, comment, ip)
    job = jobs.read(client, job_id)
    images = {"images": " ".join(job.request.images)}
    fields = {"vote": kind} | _voted(client, job) | images | words
    pipe = client.pipeline()
    pipe.xadd(keys.FEEDBACK_LOG, fields)  # type: ignore[arg-type]
    if replaces:
        pipe.xdel(keys.FEEDBACK_LOG, replaces)
    return str(pipe.execute()[0].decode())


def battle(
    client: redis.Redis,
    left_id: str,
    right_id: str,
    outcome: Outcome,
    reason: str = "",
    *,
    comment: str = "",
    ip: str = "",
    anonymous: bool = False,
) -> str:
    """Record which of two jobs answered the same message better; return the entry's id.

    What came before that message may differ, as it does in a chat with two models. `anonymous`
    says that the models' names were not shown.

    Raises:
        InvalidRequest: the outcome is unknown, reason or comment is too long, the jobs are the
            same or answer different messages, or they were compared before.
        JobNotFound: the record of one has expired or never existed.
    """
    if outcome not in get_args(Outcome):
        raise InvalidRequest(f"Vote {outcome!r} is unknown: use {', '.join(get_args(Outcome))}.")
    words = _words(reason, comment, ip)
    left, right = jobs.read(client, left_id), jobs.read(client, right_id)
    if left_id == right_id or left.request.messages[-1:] != right.request.messages[-1:]:
        raise InvalidRequest(
            f"Jobs {left_id} and {right_id} are not two answers to the same message: only those "
            "can be compared."
        )
    fields = {
        "vote": outcome,
        "anonymous": "yes" if anonymous else "no",
        "images": " ".join(left.request.images),
    } | words
    for side, job in (("left", left), ("right", right)):
        fields |= {f"{side}_{name}": value for name, value in _voted(client, job).items()}
    pairs = [text for pair in fields.items() for text in pair]
    record = keys.voted(left_id, right_id)
    entry_id: Any = client.eval(
        _BATTLE, 2, record, keys.FEEDBACK_LOG, uuid.uuid4().hex, str(keys.JOB_TTL_S), *pairs
    )
    if entry_id is None:
        raise InvalidRequest(
            f"Jobs {left_id} and {right_id} have been compared before: one vote counts."
        )
    return str(entry_id.decode())


def compared(client: redis.Redis, left_id: str, right_id: str) -> Outcome | None:
    """Which of two jobs was found better when they were compared; None if they were not."""
    entry_id: Any = client.hget(keys.voted(left_id, right_id), "id")
    entries: Any = client.xrange(keys.FEEDBACK_LOG, entry_id, entry_id) if entry_id else []
    outcomes = (
        each
        for _, fields in entries
        for each in get_args(Outcome)
        if each == fields[b"vote"].decode()
    )
    return next(outcomes, None)


def tail(client: redis.Redis, count: int) -> list[dict[str, str]]:
    """The last `count` votes, oldest first, each with its entry id and time (Unix seconds)."""
    entries: Any = client.xrevrange(keys.FEEDBACK_LOG, count=count)
    read = pages.decoded(keys.FEEDBACK_LOG, reversed(entries))
    return [
        {"id": str(entry.id), "tstamp": f"{entry.time_s:.3f}", **entry.fields} for entry in read
    ]


def _words(reason: str, comment: str, ip: str) -> dict[str, str]:
    for name, text, most in (("reason", reason, MAX_REASON), ("comment", comment, MAX_COMMENT)):
        if len(text) > most:
            raise InvalidRequest(
                f"The {name} has {len(text)} characters, and {most} are kept at most: shorten it.",
                param=name,
            )
    words = {"reason": reason, "comment": comment, "ip": ip}
    return {name: text.encode(errors="replace").decode() for name, text in words.items()}


def _voted(client: redis.Redis, job: jobs.Job) -> dict[str, str]:
    return {
        "job": job.id,
        "model": job.request.model,
        "worker": job.worker,
        "params": job.request.sampling.model_dump_json(),
        "messages": _dump(job.request.messages),
        "answer": _answer(client, job.request),
    }


def _answer(client: redis.Redis, request: GenerateRequest) -> str:
    """What a job told: from its log, or when that is gone from the chats that ended since."""
    log = read_log(client, request.id)
    if log:
        return "".join(event.text for event in log if isinstance(event, Delta | End))
    since = pages.EntryId(max(0, int(1000 * (request.created_s - _CLOCKS_APART_S))), 0)
    chats = pages.walk(client, keys.CHAT_LOG, after=since, most=_SEARCHED_CHATS)
    found = (chat.fields for chat in chats if chat.fields.get("job") == request.id)
    return next(found, {}).get("answer", "")


def _dump(messages: Sequence[ChatMessage]) -> str:
    return json.dumps([message.model_dump() for message in messages])
