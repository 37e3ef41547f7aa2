"""What the routes of one application share, as `app.create_app` put it there."""

from __future__ import annotations

from flask import current_app, request

from broker.addresses import Network
from broker.proxies import behind
from frontend.api.answer import Answers
from frontend.service import Service


def current_service() -> Service:
    """The way in."""
    service: Service = current_app.extensions["heliograph.service"]
    return service


def current_answers() -> Answers:
    """What follows jobs for clients."""
    answers: Answers = current_app.extensions["heliograph.answers"]
    return answers


def client_address() -> str:
    """Where the current request comes from, as far as trusted proxies tell; empty if unknown."""
    proxies: tuple[Network, ...] = current_app.extensions["heliograph.proxies"]
    forwarded_for = ",".join(request.headers.getlist("X-Forwarded-For"))
    return behind(request.remote_addr or "", forwarded_for, proxies)
