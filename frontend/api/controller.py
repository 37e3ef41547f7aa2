"""The controller's routes of LLaVA, InternVL and FastChat, at the root and in their shapes.

Their frontends find models and an address here, which is always our own; their workers register
and say that they live. Who may register is `control`'s to decide. No route calls an address.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from flask import Blueprint, Response, current_app, request

from broker import cell
from broker.messages import ModelInfo
from frontend.api.body import read_json_body
from frontend.api.context import current_service
from frontend.api.control import ControlPlane
from frontend.api.registration import HeartBeat, ModelName, Registration, Withdrawal, read
from frontend.model_order import place

controller = Blueprint("controller", __name__)

MAX_CONTROL_BYTES = 64 * 1024
"""Far more than a registration has; it is read before its sender is known."""


def _control() -> ControlPlane:
    control: ControlPlane = current_app.extensions["heliograph.control"]
    return control


@controller.post("/register_worker")
def register_worker() -> Response:
    """Take an HTTP worker into the fleet."""
    body = _admitted_body()
    wanted = read(Registration, body)
    _control().check_address(wanted.worker_name, request)
    current_service().foreign.register(wanted.worker(time.time()))
    return _json(None)


@controller.post("/receive_heart_beat")
def receive_heart_beat() -> Response:
    """Note that a worker lives; `exist` false tells it to register again."""
    beat = read(HeartBeat, _admitted_body())
    return _json({"exist": current_service().foreign.beat(beat.worker_name, beat.queue_length)})


@controller.post("/withdraw_worker")
def withdraw_worker() -> Response:
    """Forget a worker at once, above all one that sends no heartbeats (no original has this)."""
    gone = read(Withdrawal, _admitted_body())
    return _json({"exist": current_service().foreign.withdraw(gone.worker_name)})


def _admitted_body() -> bytes:
    # Read first: a refusal of a body that is still on its way would be lost to its sender.
    request.max_content_length = MAX_CONTROL_BYTES
    body = read_json_body(request)
    _control().admit(request)
    return body


@controller.post("/refresh_all_workers")
def refresh_all_workers() -> Response:
    """Do nothing: what is known of workers expires by itself."""
    return _json(None)


@controller.post("/list_models")
def list_models() -> Response:
    """Models that can be asked now."""
    return _json({"models": _names(_ready())})


@controller.post("/list_multimodal_models")
def list_multimodal_models() -> Response:
    """Those of them that read pictures."""
    return _json({"models": _names(info for info in _ready() if info.images)})


@controller.post("/list_language_models")
def list_language_models() -> Response:
    """Those of them that do not."""
    return _json({"models": _names(info for info in _ready() if not info.images)})


@controller.post("/get_worker_address")
def get_worker_address() -> Response:
    """Where to ask a model: here, or nowhere."""
    wanted = read(ModelName, read_json_body(request)).model
    served = any(info.name == wanted for info in _ready())
    return _json({"address": _public_url() if served else ""})


@controller.post("/worker_get_status")
def worker_get_status() -> Response:
    """All our workers as if they were one; the headers tell a parent that it is a cell."""
    service = current_service()
    ready = _ready()
    single = [info for info in ready if info.name not in service.fleet.groups]
    response = _json(
        {
            "model_names": _names(ready),
            "speed": sum(info.peak_speed for info in single) or 1,
            "queue_length": sum(info.queue_length + info.running for info in single),
        }
    )
    response.headers[cell.CELL_HEADER] = service.fleet.cell_id()
    response.headers[cell.SLOTS_HEADER] = str(sum(info.slots for info in single))
    return response


@controller.get("/test_connection")
def test_connection() -> Response:
    """Answer that somebody is here."""
    return _json("success")


def _ready() -> list[ModelInfo]:
    """Models with a worker that has loaded it; the originals' workers register no sooner."""
    return [info for info in current_service().fleet.models() if info.ready]


def _names(infos: Iterable[ModelInfo]) -> list[str]:
    return sorted((info.name for info in infos), key=place)


def _public_url() -> str:
    """Our address as others see it: what was set, else what the asker itself called."""
    called = f"{request.scheme}://{request.host}" if request.host else ""
    return current_service().settings.public_url.rstrip("/") or called


def _json(value: Any) -> Response:
    return Response(json.dumps(value), mimetype="application/json")
