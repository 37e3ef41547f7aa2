"""The OpenAI routes: /v1/models and /v1/chat/completions.

Each route translates a request to calls of `frontend.service` and the answer back; nothing here
knows Redis. Shapes are OpenAI's, with our additions named in the docs.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, g, request

from broker import cell
from broker.errors import InvalidRequest, ModelNotFound
from broker.idempotency import Once
from broker.messages import ModelInfo
from broker.readers import CANCEL, new_reader
from frontend.api.body import read_json_body
from frontend.api.client import Client, ClientGone
from frontend.api.completion import streamed_reply, whole_reply
from frontend.api.content import read_messages
from frontend.api.context import client_address, current_answers, current_service
from frontend.api.schemas import ChatRequest, parse

openai = Blueprint("openai", __name__, url_prefix="/v1")

MAX_KEY_LENGTH = 255


@openai.get("/models")
def list_models() -> Response:
    """Models that live workers serve."""
    models = [_model(info) for info in current_service().fleet.models()]
    return _json({"object": "list", "data": models})


@openai.get("/models/<path:name>")
def get_model(name: str) -> Response:
    """One of them."""
    served = current_service().fleet.models()
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
    once = _once(wanted)
    service, reader = current_service(), new_reader()
    job = service.submit(
        wanted.model,
        read_messages(wanted, service.pictures, service.settings),
        wanted.sampling,
        path=cell.read_path(request.headers.get(cell.HEADER, "")),
        on_disconnect=wanted.on_disconnect or CANCEL,
        once=once,
        queue_timeout_s=wanted.queue_timeout,
        wait_for_worker_s=wanted.wait_for_worker or 0.0,
        reader=reader,
        ip=client_address(),
    )
    g.job_id = job.id
    events = current_answers().follow(job, client, reader=reader)
    try:
        if wanted.stream:
            return streamed_reply(job, events, usage=wanted.include_usage)
        return whole_reply(job, events)
    except ClientGone:
        return Response(status=499)


def _once(wanted: ChatRequest) -> Once | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise InvalidRequest(
            f"Idempotency-Key: it must have 1 to {MAX_KEY_LENGTH} characters; {len(key)} were "
            "sent.",
            param="Idempotency-Key",
        )
    return Once.of(key, wanted.model_dump_json().encode())


def _json(value: Any) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), mimetype="application/json")
