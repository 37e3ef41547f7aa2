"""The OpenAI routes: /v1/models and /v1/chat/completions.

Each route translates a request to calls of `frontend.service` and the answer back; nothing here
knows Redis. Shapes are OpenAI's, with our additions named in the docs.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, g, request
from werkzeug.datastructures import Headers

from broker import cell
from broker.errors import HeliographError, ModelNotFound
from broker.messages import GenerateRequest, ModelInfo
from broker.subscriber import Events
from frontend.api import sse
from frontend.api.answer import Whole, first_news, whole
from frontend.api.body import read_json_body
from frontend.api.client import Client, ClientGone
from frontend.api.content import read_messages
from frontend.api.context import current_answers, current_service
from frontend.api.logprobs import logprobs_object
from frontend.api.schemas import ChatRequest, parse
from frontend.service import Service

openai = Blueprint("openai", __name__, url_prefix="/v1")


@openai.get("/models")
def list_models() -> Response:
    """Models that live workers serve."""
    return _json({"object": "list", "data": [_model(info) for info in current_service().models()]})


@openai.get("/models/<path:name>")
def get_model(name: str) -> Response:
    """One of them."""
    served = current_service().models()
    for info in served:
        if info.name == name:
            return _json(_model(info))
    names = ", ".join(info.name for info in served) or "none at the moment"
    raise ModelNotFound(f"Model {name[:256]!r} is not served here. Served: {names}.", param="model")


def _model(info: ModelInfo) -> dict[str, Any]:
    return {
        "id": info.name,
        "object": "model",
        "created": int(info.started_s),
        "owned_by": "heliograph",
        "max_model_len": info.context_length or None,
        "ready_workers": info.ready,
    }


@openai.post("/chat/completions")
def chat_completions() -> Response:
    """Answer a conversation, as one object or as a stream."""
    client = Client(request.environ)
    wanted = parse(read_json_body(request))
    service = current_service()
    messages = read_messages(wanted, service)
    path = cell.read_path(request.headers.get(cell.HEADER, ""))
    job = service.submit(wanted.model, messages, wanted.sampling, path=path)
    g.job_id = job.id
    events = current_answers().follow(job, client)
    try:
        return _stream(wanted, job, events) if wanted.stream else _whole(wanted, job, events)
    except ClientGone:
        return Response(status=499)


def _whole(wanted: ChatRequest, job: GenerateRequest, events: Events) -> Response:
    answer = whole(events)
    return _json(
        {
            "id": f"chatcmpl-{job.id}",
            "object": "chat.completion",
            "created": int(job.created_s),
            "model": job.model,
            "choices": [_choice(wanted, answer)],
            "usage": sse.usage_object(answer.end.usage),
        }
    )


def _choice(wanted: ChatRequest, answer: Whole) -> dict[str, Any]:
    return {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text, "refusal": None},
        "logprobs": logprobs_object(answer.logprobs) if wanted.logprobs else None,
        "finish_reason": sse.finish_reason(answer.end),
    }


def _stream(wanted: ChatRequest, job: GenerateRequest, events: Events) -> Response:
    service = current_service()
    first = first_news(events)
    headers = Headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    if first is None and (ahead := _position(service, job)) is not None:
        headers["X-Queue-Position"] = str(ahead)
    chunks = sse.Chunks(
        f"chatcmpl-{job.id}", job.model, int(job.created_s), usage=wanted.include_usage
    )
    stream = sse.stream(first, events, chunks, lambda: _waiting_for(service, job))
    response = Response(stream, mimetype="text/event-stream", headers=headers)
    response.call_on_close(events.close)
    return response


def _waiting_for(service: Service, job: GenerateRequest) -> str:
    ahead = _position(service, job)
    return "waiting" if ahead is None else f"queued, {ahead} ahead"


def _position(service: Service, job: GenerateRequest) -> int | None:
    try:
        return service.position(job)
    except HeliographError:
        return None


def _json(value: Any) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), mimetype="application/json")
