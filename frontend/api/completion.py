"""The reply to a chat: a followed job as one object, or as a stream from any of its events on.

The same for whoever sent the request, repeats it, or comes back to its job. Shapes are OpenAI's.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from flask import Response
from werkzeug.datastructures import Headers

from broker.errors import HeliographError
from broker.events import START, End, Event, EventId, Failed
from broker.messages import GenerateRequest
from broker.queues import ANSWER_PREFIX
from broker.subscriber import Events
from frontend.api import sse
from frontend.api.answer import Whole, first_news, whole
from frontend.api.context import current_service
from frontend.api.logprobs import logprobs_object
from frontend.api.silence import Silence
from frontend.line import Line, Place

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def whole_reply(job: GenerateRequest, events: Events) -> Response:
    """Wait for the answer and tell it as one object."""
    answer = whole(events)
    value = {
        "id": f"{ANSWER_PREFIX}{job.id}",
        "object": "chat.completion",
        "created": int(job.created_s),
        "model": job.model,
        "choices": [_choice(job, answer)],
        "usage": sse.usage_object(answer.end.usage),
    }
    return Response(json.dumps(value, ensure_ascii=False), mimetype="application/json")


def _choice(job: GenerateRequest, answer: Whole) -> dict[str, Any]:
    asked = job.sampling.logprobs is not None
    return {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text, "refusal": None},
        "logprobs": logprobs_object(answer.logprobs) if asked else None,
        "finish_reason": sse.finish_reason(answer.end),
    }


def streamed_reply(
    job: GenerateRequest, events: Events, *, usage: bool, after: EventId = START
) -> Response:
    """Stream the answer's events, which come after `after`.

    Raises:
        RemoteError: it is told from its beginning, and has failed before any token.
    """
    begins = after == START
    first = first_news(events) if begins else None
    headers = Headers(_HEADERS)
    silence = Silence(partial(_place, current_service().line, job))
    if first is None and (place := silence.look()) is not None:
        headers["X-Queue-Position"] = str(place.ahead)
    stream = sse.stream(first, events, _chunks(job, usage=usage), silence, begins=begins)
    response = Response(stream, mimetype="text/event-stream", headers=headers)
    response.call_on_close(events.close)
    return response


def last_words(job: GenerateRequest, ending: Event, *, usage: bool) -> Response:
    """Stream once more how an answer ended, for a client that has all of its text."""
    said = sse.DONE
    if isinstance(ending, End):
        said = _chunks(job, usage=usage).finish(ending)
    elif isinstance(ending, Failed):
        said = sse.failure(ending.error)
    return Response(said, mimetype="text/event-stream", headers=_HEADERS)


def _chunks(job: GenerateRequest, *, usage: bool) -> sse.Chunks:
    return sse.Chunks(f"{ANSWER_PREFIX}{job.id}", job.model, int(job.created_s), usage=usage)


def _place(line: Line, job: GenerateRequest) -> Place | None:
    try:
        return line.place(job)
    except HeliographError:
        return None
