"""The plain routes by which operators log in and out; the browser keeps the note as a cookie."""

from __future__ import annotations

import asyncio
import logging
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from frontend.operations import LOGIN_S, Operations

log = logging.getLogger(__name__)

COOKIE: Final = "heliograph-operator"
PAUSE_S: Final = 1.0
"""After a wrong token, so that guessing takes its time."""
MAX_BYTES: Final = 4096


def login_routes(operations: Operations) -> list[Route]:
    """The routes to log in and out, relative to the page."""

    async def log_in(request: Request) -> Response:
        note = operations.log_in(await _token(request))
        if note is None:
            log.warning("a login on the fleet page was refused")
            await asyncio.sleep(PAUSE_S)
            return PlainTextResponse(
                "This is not the operator's token. Go back and try again.", 403
            )
        answer = _back(request)
        answer.set_cookie(
            COOKIE,
            note,
            max_age=LOGIN_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def log_out(request: Request) -> Response:
        answer = _back(request)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    return [
        Route("/fleet/login", log_in, methods=["POST"]),
        Route("/fleet/logout", log_out, methods=["POST"]),
    ]


def _back(request: Request) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/fleet", 303)


async def _token(request: Request) -> str:
    """The field of the form; empty if there is none, or the body is no such form."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BYTES:
            return ""
    fields = parse_qs(body.decode(errors="replace"))
    return next(iter(fields.get("token", [])), "")
