"""The bytes of an answer on the worker routes: JSON objects, each ended by a NUL.

The protocol repeats the whole text in every chunk. The text is kept as the JSON that it becomes, so
that a piece is escaped once and a chunk costs no more than its copy; and since the originals'
readers take at most 33 chunks a second, no more are made.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

from broker.errors import ErrorBody, HeliographError
from broker.events import Delta, End, Failed
from broker.subscriber import Events
from frontend.api.client import ClientGone
from frontend.api.errors import unexpected
from frontend.api.sse import finish_reason

CHUNK_S = 0.03
"""Shortest time between two chunks: LLaVA's page sleeps this long after each."""

SILENCE_S = 3.0
"""Longest silence: readers give up after 5 to 10 s. All of them skip an empty chunk, a lone NUL."""

NUL = b"\0"

NO_WORKER = 2
WORKER_BROKE = 3
_REFUSED = 1
_NO_WORKER_CODES = frozenset({"model_not_found", "no_live_worker", "queue_full", "queue_timeout"})

_quote = json.encoder.encode_basestring_ascii


def error_code(body: ErrorBody) -> int:
    """The originals' number: 1 a bad request, 2 no worker, 3 a worker or Redis that broke."""
    if body.code in _NO_WORKER_CODES:
        return NO_WORKER
    return _REFUSED if body.status < 500 or body.code == "loop_detected" else WORKER_BROKE


def failure(body: ErrorBody, job_id: str | None = None) -> dict[str, Any]:
    """An error as the originals' object; its sentence names the job, once there is one."""
    job = f" (job {job_id})" if job_id and job_id not in body.message else ""
    return {"text": body.message + job, "error_code": error_code(body)}


def frame(value: dict[str, Any]) -> bytes:
    """One chunk."""
    return json.dumps(value).encode() + NUL


def outcome(end: End) -> dict[str, Any]:
    """Why an answer ended and what it took, in FastChat's words."""
    prompt, completion = end.usage.prompt_tokens, end.usage.completion_tokens
    return {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
        "finish_reason": finish_reason(end),
    }


class Chunks:
    """Encodes one answer's chunks."""

    def __init__(self, prompt: str, *, outcome: bool) -> None:
        """Begin the text with `prompt`; `outcome` adds FastChat's fields."""
        self._text = bytearray(b'{"text": ' + _quote(prompt)[:-1].encode())
        self._outcome = outcome
        self._tail = b'", "error_code": 0'
        self._tail += b', "finish_reason": null}' + NUL if outcome else b"}" + NUL

    def add(self, text: str) -> None:
        """Append a piece of the answer."""
        self._text += _quote(text)[1:-1].encode()

    def chunk(self) -> bytes:
        """The text so far."""
        return b"".join((self._text, self._tail))

    def last(self, end: End) -> bytes:
        """The whole text; the one chunk of an answer that is always there."""
        self.add(end.text)
        if not self._outcome:
            return self.chunk()
        fields = json.dumps({"error_code": 0, **outcome(end)})[1:]
        return b"".join((self._text, b'", ', fields.encode(), NUL))


def stream(events: Events, chunks: Chunks, job_id: str) -> Iterator[bytes]:
    """Yield an answer's bytes, up to one last chunk or one error.

    Args:
        events: the answer; its end is the caller's to close.
        chunks: encodes it.
        job_id: is told with an error.
    """
    try:
        yield from _frames(events, chunks, job_id)
    except ClientGone:
        return
    except HeliographError as error:
        yield frame(failure(error.body, job_id))
    except Exception as error:
        yield frame(failure(unexpected(error), job_id))


def _frames(events: Events, chunks: Chunks, job_id: str) -> Iterator[bytes]:
    said_s = told_s = -math.inf
    is_due = False
    for event in events:
        match event:
            case Delta():
                chunks.add(event.text)
                is_due = is_due or bool(event.text)
            case End():
                yield chunks.last(event)
                return
            case Failed(_, error):
                yield frame(failure(error, job_id))
                return
        now_s = time.monotonic()
        if is_due and now_s - told_s >= CHUNK_S:
            yield chunks.chunk()
            said_s, told_s, is_due = now_s, now_s, False
        elif now_s - said_s >= SILENCE_S:
            yield NUL
            said_s = now_s
    raise HeliographError("The answer has no end.")
