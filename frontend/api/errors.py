"""The one place of this process where an error becomes a reply.

Every failure leaves as `{"error": {"message", "type", "param", "code"}}` with its true status.
What a message may say is decided where the error is raised; an unexpected exception shows nothing
of itself, and its log entry shows where it happened but never its text, which may quote a prompt.
"""

from __future__ import annotations

import json
import logging
import traceback

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from broker.errors import ErrorBody, HeliographError, InvalidRequest

log = logging.getLogger(__name__)

RETRY_AFTER_S = {429: 2, 503: 5}
"""What `Retry-After` tells a client, by status, where the error does not say.

429 without a figure is a queue of a model that has not ended a job yet: soon it will have. 503: a
worker that is started again, or a Redis, is back within this time at best; a worker counts as alive
as soon as it loads.
"""

_SENTENCES = {
    400: "The request cannot be read as HTTP.",
    404: "There is no such route here. See /v1/models and /v1/chat/completions.",
    405: "The route exists, but not with this method.",
    413: "The request body is too large.",
}


class UnsupportedMediaType(InvalidRequest):
    """The body is declared to be something else than JSON."""

    status = 415
    code = "unsupported_media_type"


class RequestTimeout(InvalidRequest):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"


class ServerStopping(HeliographError):
    """This process was told to stop while it served the request."""

    status = 503
    code = "server_stopping"


class Unsupported(InvalidRequest):
    """A parameter of OpenAI's API that would change the answer, and that is not offered here."""

    code = "unsupported_parameter"


def error_object(body: ErrorBody) -> dict[str, dict[str, str | None]]:
    """OpenAI's error object."""
    return {
        "error": {
            "message": body.message,
            "type": body.type,
            "param": body.param,
            "code": body.code,
        }
    }


def reply(body: ErrorBody) -> Response:
    """An HTTP response that carries the error."""
    response = Response(
        json.dumps(error_object(body)), status=body.status, mimetype="application/json"
    )
    retry_after_s = body.retry_after_s or RETRY_AFTER_S.get(body.status)
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(retry_after_s)
    return response


def unexpected(error: Exception) -> ErrorBody:
    """Log an exception that nobody foresaw, without its text, and say that something failed."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("unexpected %s\n%s", type(error).__name__, where)
    return HeliographError(
        "Something failed on the server. Try again; if it persists, report the request id."
    ).body


def install(app: Flask) -> None:
    """Make `app` answer every exception with an error object."""
    app.register_error_handler(HeliographError, _known)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, lambda error: reply(unexpected(error)))


def _known(error: HeliographError) -> Response:
    body = error.body
    if body.status >= 500:
        log.warning("%s: %s (%s)", body.code, body.message, error.__cause__)
    return reply(body)


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    code = (error.name or "error").lower().replace(" ", "_")
    kind = "invalid_request_error" if status < 500 else "server_error"
    message = _SENTENCES.get(status, f"{error.name}.")
    response = reply(ErrorBody(status, kind, code, message))
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response
