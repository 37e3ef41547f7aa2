"""Builds the Flask application: routes, limits, headers, request ids and one log line a request."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid

from flask import Flask, Response, g, request

from broker.proxies import parse_networks
from broker.settings import Settings
from frontend.api import errors
from frontend.api.answer import Answers
from frontend.api.client import Client
from frontend.api.control import ControlPlane
from frontend.api.controller import controller
from frontend.api.jobs import jobs
from frontend.api.openai import openai
from frontend.api.worker import worker
from frontend.service import Service

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def create_app(settings: Settings, service: Service | None = None) -> Flask:
    """Make the API of one process.

    Args:
        settings: limits and the Redis to use.
        service: the way in, when it is shared with others; a new one by default.

    Raises:
        ConfigurationError: HELIOGRAPH_WORKER_ADDRESSES or HELIOGRAPH_TRUSTED_PROXIES does not
            parse.
    """
    app = Flask("frontend.api")
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    service = service or Service(settings)
    app.extensions["heliograph.service"] = service
    app.extensions["heliograph.answers"] = Answers(service)
    app.extensions["heliograph.proxies"] = parse_networks(
        settings.trusted_proxies, "HELIOGRAPH_TRUSTED_PROXIES"
    )
    app.extensions["heliograph.control"] = ControlPlane.of(settings)
    app.before_request(_begin)
    app.after_request(_finish)
    for routes in (openai, jobs, controller, worker):
        app.register_blueprint(routes)
    app.add_url_rule("/health", "health", lambda: _health(service))
    errors.install(app)
    return app


def _health(service: Service) -> Response:
    service.ping()
    return Response(json.dumps({"status": "ok"}), mimetype="application/json")


def _begin() -> None:
    g.began_s = time.monotonic()
    g.job_id = None
    g.unread = False
    wanted = request.headers.get("X-Request-Id", "")
    g.request_id = wanted if _REQUEST_ID.fullmatch(wanted) else None


def _finish(response: Response) -> Response:
    headers = response.headers
    headers["X-Request-Id"] = g.request_id or g.job_id or uuid.uuid4().hex
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")
    _log_on_close(response)
    if g.unread:
        response.call_on_close(Client(request.environ).drain)
    return response


def _log_on_close(response: Response) -> None:
    began_s, job_id, status = g.began_s, g.job_id or "-", response.status_code
    method, path = request.method, request.path.encode("unicode_escape").decode()[:200]

    def line() -> None:
        took_ms = 1000 * (time.monotonic() - began_s)
        log.info("%s %s %d %.0f ms job %s", method, path, status, took_ms, job_id)

    response.call_on_close(line)
