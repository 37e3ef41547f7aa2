"""Boxes of answers as pictures under them: their addresses, and the route that draws them.

An address has all that is drawn, so nothing is kept: who knows a picture's SHA-256 may see it, with
any boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, cast, get_args
from urllib.parse import quote, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker.errors import HeliographError
from broker.messages import ChatMessage, ImageProcessMode
from frontend.picture_store import PictureStore
from frontend.ui.boxes import Region, picture, regions
from frontend.ui.overlay import draw

OVERLAYS: Final = "overlays"
"""Where the route is, relative to the page."""


def drawn(answer: str, messages: Sequence[ChatMessage], mode: ImageProcessMode | None) -> list[str]:
    """Markdown of the pictures that an answer to `messages` points at, with its boxes."""
    found: dict[str, list[Region]] = {}
    for region in regions(answer):
        if sha256 := picture(messages, region):
            found.setdefault(sha256, []).append(region)
    addresses = (_address(sha256, each, mode) for sha256, each in found.items())
    return [f"![boxes]({each})\n\n[Save this picture]({each}&save=1)" for each in addresses]


def _address(sha256: str, found: Iterable[Region], mode: ImageProcessMode | None) -> str:
    written = "".join(
        f"<ref>{region.name or ' '}</ref><box>{[list(box) for box in region.boxes]}</box>"
        for region in found
    )
    query = urlencode({"mode": mode or "", "regions": written}, quote_via=quote)
    return f"{OVERLAYS}/{sha256}.png?{query}"


def overlay_route(store: PictureStore) -> Route:
    """The route of pictures with boxes."""

    def overlay(request: Request) -> Response:
        asked = request.query_params
        mode = cast(ImageProcessMode, asked.get("mode")) or None
        if mode not in (None, *get_args(ImageProcessMode)):
            raise HTTPException(400, f"There is no process mode {mode[:40]!r}.")
        if not (found := regions(asked.get("regions", ""))):
            raise HTTPException(400, "There is no box to draw: `regions` has none.")
        try:
            png = draw(store.read(request.path_params["sha256"]), found, mode).png
        except HeliographError as error:
            status = 503 if error.status == 503 else 404
            raise HTTPException(status, error.message) from None
        # The address is the content: it never changes.
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        if "save" in asked:
            headers["Content-Disposition"] = 'attachment; filename="boxes.png"'
        return Response(png, media_type="image/png", headers=headers)

    return Route(f"/{OVERLAYS}/{{sha256}}.png", overlay)
