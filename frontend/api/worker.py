"""The worker's routes of LLaVA, InternVL and FastChat: their frontends stream answers from here.

A request that can be read is answered with status 200, as these clients expect; what goes wrong is
an object with a sentence and an error code. What a payload means is `payload`'s and
`payload_content`'s to say, and how an answer is framed `frames`'.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, g, request

from broker import cell
from broker.errors import HeliographError, InvalidRequest, NoLiveWorker
from broker.messages import GenerateRequest
from broker.readers import CANCEL, new_reader
from frontend.api.answer import whole
from frontend.api.body import decode, read_json_body
from frontend.api.client import Client, ClientGone
from frontend.api.context import client_address, current_answers, current_service
from frontend.api.errors import Unsupported, unexpected
from frontend.api.frames import Chunks, failure, frame, outcome, stream
from frontend.api.payload import Payload, read_payload
from frontend.api.payload_content import read_prompt

worker = Blueprint("worker", __name__)

STREAM_TYPE = "application/octet-stream"
"""Readers that decode by the declared type must find none to decode by: they split at bytes."""

UNKNOWN_LENGTH = 2**20
"""Told of a model whose server does not say how much it holds; that server refuses what is more."""

CONVERSATION = {
    "name": "vicuna_v1.1",
    "system_template": "{system_message}",
    "system_message": "",
    "roles": ["USER", "ASSISTANT"],
    "messages": [],
    "offset": 0,
    "sep_style": 2,
    "sep": " ",
    "sep2": "</s>",
    "stop_str": None,
    "stop_token_ids": None,
}
"""How FastChat's server shall write a conversation: in a form that our workers read back."""


@worker.post("/worker_generate_stream")
def generate_stream() -> Response:
    """Answer a prompt in chunks, each with the text so far."""
    client = Client(request.environ)
    value = _object()
    try:
        payload, job, reader = _submit(value)
    except Exception as error:
        return Response(frame(_failed(error)), mimetype=STREAM_TYPE)
    events = current_answers().follow(job, client, reader=reader)
    chunks = Chunks(payload.echoed, outcome=payload.tells_outcome)
    response = Response(stream(events, chunks, job.id), mimetype=STREAM_TYPE)
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(events.close)
    return response


@worker.post("/worker_generate")
def generate() -> Response:
    """Answer a prompt at once (FastChat's)."""
    client = Client(request.environ)
    value = _object()
    try:
        payload, job, reader = _submit(value)
        answer = whole(current_answers().follow(job, client, reader=reader))
    except ClientGone:
        return Response(status=499)
    except Exception as error:
        return _json(_failed(error))
    text = payload.echoed + answer.text
    return _json({"text": text, "error_code": 0, **outcome(answer.end)})


def _submit(value: dict[str, Any]) -> tuple[Payload, GenerateRequest, str]:
    payload, service = read_payload(value), current_service()
    said = cell.read_path(request.headers.get(cell.HEADER, ""))
    path = tuple(dict.fromkeys((*said, *(payload.heliograph_path or ()))))
    messages = read_prompt(payload, service.pictures, service.settings)
    reader = new_reader()
    job = service.submit(
        payload.model,
        messages,
        payload.sampling,
        path=path,
        on_disconnect=CANCEL,
        reader=reader,
        ip=client_address(),
    )
    g.job_id = job.id
    return payload, job, reader


@worker.post("/worker_get_conv_template")
def conv_template() -> Response:
    """How to write a conversation as a prompt (FastChat's); the same for all models."""
    return _json({"conv": CONVERSATION})


@worker.post("/model_details")
def model_details() -> Response:
    """How many tokens a model holds (FastChat's)."""
    wanted = _object()
    try:
        return _json({"context_length": _context_length(_text(wanted, "model"))})
    except HeliographError as error:
        return _json(_failed(error))


def _context_length(model: str) -> int:
    for info in current_service().fleet.models():
        if info.name == model and info.ready:
            return info.context_length or UNKNOWN_LENGTH
    raise NoLiveWorker(f"No worker that is ready serves model {model[:256]!r}.", param="model")


@worker.post("/count_token")
def count_token() -> Response:
    """How many tokens a prompt has (FastChat's)."""
    wanted = _object()
    try:
        model, prompt = _text(wanted, "model"), _text(wanted, "prompt")
        count = current_service().fleet.count_tokens(model, prompt)
        return _json({"count": count, "error_code": 0})
    except HeliographError as error:
        return _json({"count": 0, **_failed(error)})


@worker.post("/worker_get_embeddings")
def embeddings() -> Response:
    """Refuse: no worker computes embeddings."""
    refusal = Unsupported(
        "Embeddings are not offered here. Ask a server that has a model for them."
    )
    return _json(_failed(refusal))


def _object() -> dict[str, Any]:
    """The body of the request.

    Raises:
        InvalidRequest: it is no JSON object; see `body` for what else may be wrong with it.
    """
    value = decode(read_json_body(request))
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be one JSON object.")
    return value


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} is required: a string.", param=name)
    return text


def _failed(error: Exception) -> dict[str, Any]:
    body = error.body if isinstance(error, HeliographError) else unexpected(error)
    return failure(body, g.job_id)


def _json(value: dict[str, Any]) -> Response:
    return Response(json.dumps(value), mimetype="application/json")
