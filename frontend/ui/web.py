"""The plain HTTP parts of the chat page: pictures, chats as files, cookie, content policy, limit.

The page may load nothing from other hosts: an answer that embeds a foreign picture cannot leak
what was said. Pictures are served under their SHA-256, which nobody guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker import keys
from broker.chats import Chats
from broker.conversation import Chat
from broker.errors import HeliographError
from frontend.picture_store import PictureStore
from frontend.pictures import kind_of
from frontend.ui import export, tabs
from frontend.ui.markup import PICTURES

EXPORTS: Final = "chats"
"""Where chats are served as files, relative to the page."""

UPLOAD: Final = "/gradio_api/upload"
"""Where Gradio takes files."""

# Gradio's own page needs inline scripts and styles, and its HTML component compiles its template.
POLICY: Final = (
    "default-src 'self' 'unsafe-inline' data: blob:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
FEATURES: Final = "camera=(self), microphone=(), geolocation=(), display-capture=()"
OWNED: Final = ("/", "/battle")
"""Pages that show what belongs to a browser."""

PAGES: Final = (*OWNED, "/fleet")


class ContentPolicy:
    """Middleware that adds the policy to every reply; `framers` may show the chat page in a frame.

    Everything else is framed by this host alone, the orders of the fleet page above all.
    """

    def __init__(self, app: ASGIApp, framers: str = "") -> None:
        """Take origins with blanks between, or `*`."""
        self._app = app
        self._framers = framers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; change nothing but the reply's headers."""

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                framers = f"'self' {self._framers}" if scope["path"] == "/" else "'self'"
                policy = f"{POLICY}; frame-ancestors {framers.strip()}"
                headers.setdefault("Content-Security-Policy", policy)
                headers.setdefault("Permissions-Policy", FEATURES)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "same-origin")
            await send(message)

        await self._app(scope, receive, add_headers if scope["type"] == "http" else send)


class OwnerCookie:
    """Middleware that gives each browser a cookie of its own with the page, and renews it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; change nothing but the headers of the page itself."""

        async def add_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                response = Response()
                response.set_cookie(
                    tabs.COOKIE,
                    tabs.known_token(Request(scope).cookies) or tabs.new_token(),
                    max_age=keys.CHAT_TTL_S,
                    httponly=True,
                    samesite="lax",
                    secure=scope["scheme"] == "https",
                )
                MutableHeaders(scope=message).append("Set-Cookie", response.headers["Set-Cookie"])
            await send(message)

        await self._app(scope, receive, add_cookie if _is_page(scope, OWNED) else send)


def _is_page(scope: Scope, paths: Collection[str]) -> bool:
    return scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in paths


class FirstScript:
    """Middleware that puts a script before all others of a page; Gradio would run it last."""

    def __init__(self, app: ASGIApp, script: str, paths: Collection[str] = OWNED) -> None:
        """Take the script with its tags, and its pages."""
        self._app = app
        self._script = script.encode()
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; change nothing but the pages."""
        start: Message = {}

        async def add_script(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start:
                body = message["body"]
                message["body"] = body.replace(b"<head>", b"<head>" + self._script, 1)
                headers = MutableHeaders(scope=start)
                longer = len(message["body"]) - len(body)
                headers["Content-Length"] = str(int(headers["Content-Length"]) + longer)
                await send(start)
                start = {}
            await send(message)

        await self._app(scope, receive, add_script if _is_page(scope, self._paths) else send)


class BodyLimit:
    """Middleware that refuses a body over `max_bytes`; Gradio would take any into memory.

    Uploads, which go to disk, come several at a time: `max_upload_bytes` is for all of them.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and its body as long as that is within the limit."""
        taken = 0
        is_upload = scope["type"] == "http" and scope["path"] == UPLOAD
        max_bytes = self._max_upload_bytes if is_upload else self._max_bytes

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > max_bytes:
                raise HTTPException(
                    413, f"The body is over {max_bytes:,} bytes, which is the limit."
                )
            return message

        await self._app(scope, bounded if scope["type"] == "http" else receive, send)


def picture_route(store: PictureStore) -> Route:
    """The route of stored pictures."""

    def picture(request: Request) -> Response:
        sha256: str = request.path_params["sha256"]
        try:
            data = store.read(sha256)
        except HeliographError as error:
            status = 503 if error.status == 503 else 404
            raise HTTPException(status, error.message) from None
        # The address is the content: it never changes.
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(data, media_type=kind_of(data), headers=headers)

    return Route(f"/{PICTURES}/{{sha256}}", picture)


def chat_route(chats: Chats) -> Route:
    """The route of chats as files; only their owner's browser gets them."""

    def chat(request: Request) -> Response:
        ending: str = request.path_params["ending"]
        if ending not in _EXPORTS:
            raise HTTPException(404, "A chat is exported as .md or as .json.")
        kind, write = _EXPORTS[ending]
        try:
            found = chats.read(tabs.owner(request.cookies), request.path_params["id"])
        except HeliographError as error:
            raise HTTPException(error.status, error.message) from None
        name = quote(export.file_name(found, ending))
        headers = {
            "Cache-Control": "no-store",
            "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        }
        return Response(write(found, str(request.base_url)), media_type=kind, headers=headers)

    return Route(f"/{EXPORTS}/{{id}}.{{ending}}", chat)


_EXPORTS: Final[dict[str, tuple[str, Callable[[Chat, str], str]]]] = {
    "md": ("text/markdown", export.as_document),
    "json": ("application/json", export.as_json),
}
