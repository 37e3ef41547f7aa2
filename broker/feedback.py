"""The chat log and the votes, as two Redis streams that redis-cli can read.

`helio:log:chats` gets one entry per ended job; `helio:log:feedback` one per vote, bound to the job,
its model, worker and parameters. Both are capped or expire as `broker.keys` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args

import redis
from redis.client import Pipeline

from broker import keys
from broker.errors import ErrorBody, InvalidRequest, JobNotFound
from broker.events import Timings, Usage
from broker.messages import GenerateRequest

Vote = Literal["upvote", "downvote", "flag"]


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
    """Queue on `pipe` the entry of an ended job; `outcome` is its finish reason or "error"."""
    fields = {
        "job": request.id,
        "model": request.model,
        "worker": worker,
        "outcome": outcome,
        "messages": json.dumps([message.model_dump() for message in request.messages]),
        "answer": answer,
        "params": request.sampling.model_dump_json(),
        "images": " ".join(request.images),
        "usage": f"{usage.prompt_tokens} {usage.completion_tokens}",
        "start": f"{request.created_s:.4f}",
        "finish": f"{request.created_s + timings.total_s:.4f}",
        "error": error.code if error else "",
    }
    pipe.xadd(keys.CHAT_LOG, fields, maxlen=keys.CHAT_LOG_LENGTH, approximate=True)  # type: ignore[arg-type]


def vote(client: redis.Redis, job_id: str, kind: Vote, reason: str = "") -> str:
    """Record a vote on a job's answer and return the entry's id.

    Raises:
        InvalidRequest: the kind is unknown.
        JobNotFound: the job's record has expired or never existed.
    """
    if kind not in get_args(Vote):
        raise InvalidRequest(f"Vote {kind!r} is unknown: use {', '.join(get_args(Vote))}.")
    record: Any = client.hgetall(keys.job(job_id))
    if not record:
        raise JobNotFound(f"Job {job_id} is unknown here, or its record has expired.")
    request = GenerateRequest.model_validate_json(record[b"request"])
    fields = {
        "vote": kind,
        "job": job_id,
        "model": request.model,
        "worker": record.get(b"worker", b"").decode(),
        "params": request.sampling.model_dump_json(),
        "images": " ".join(request.images),
        "reason": reason,
    }
    entry_id: Any = client.xadd(keys.FEEDBACK_LOG, fields)  # type: ignore[arg-type]
    return str(entry_id.decode())


def tail(client: redis.Redis, count: int) -> list[dict[str, str]]:
    """The last `count` votes, oldest first, each with its entry id and time (Unix seconds)."""
    entries: Any = client.xrevrange(keys.FEEDBACK_LOG, count=count)
    return [_row(*entry) for entry in reversed(entries)]


def export(client: redis.Redis, *, page: int = 500) -> Iterator[dict[str, str]]:
    """All votes, oldest first, read page by page."""
    low = "-"
    while True:
        entries: Any = client.xrange(keys.FEEDBACK_LOG, low, "+", count=page)
        if not entries:
            return
        yield from (_row(*entry) for entry in entries)
        low = f"({entries[-1][0].decode()}"


def _row(entry_id: bytes, fields: dict[bytes, bytes]) -> dict[str, str]:
    row = {key.decode(): value.decode() for key, value in fields.items()}
    milliseconds = int(entry_id.split(b"-")[0])
    return {"id": entry_id.decode(), "tstamp": f"{milliseconds / 1000:.3f}", **row}
