"""Pictures that an answer asks for, under it: their addresses, and the route that gives them.

Who knows a job's id may see them. What goes wrong is told in a picture too: browsers show nothing
else in its place.
"""

from __future__ import annotations

import io
import textwrap
from typing import Final

from anyio import CapacityLimiter, to_thread
from PIL import Image, ImageDraw, ImageFont
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker.conversation import Answer
from broker.errors import HeliographError
from frontend.drawings import Drawings, captions
from frontend.pictures import kind_of

DRAWINGS: Final = "drawings"
"""Where the route is, relative to the page."""

MOST_AT_A_TIME: Final = 16
"""Pictures that a process waits for; whoever asks for more waits for one of these."""

_LETTERS: Final = 16
_COLUMNS: Final = 60


def asked_for(answer: Answer) -> list[str]:
    """Markdown of the pictures that an answer asks for."""
    count = len(captions(answer.text))
    return [f"![drawing]({DRAWINGS}/{answer.job}/{place}.png)" for place in range(count)]


def drawing_route(drawings: Drawings) -> Route:
    """The route of the pictures that answers ask for."""
    # Apart from the threads of the other routes: a drawing worker may take a minute.
    threads = CapacityLimiter(MOST_AT_A_TIME)

    async def drawing(request: Request) -> Response:
        job_id, place = request.path_params["job"], request.path_params["place"]
        try:
            data = await to_thread.run_sync(drawings.read, job_id, place, limiter=threads)
        except HeliographError as error:
            headers = {"Cache-Control": "no-store"}
            return Response(
                _written(error.message), error.status, headers=headers, media_type="image/png"
            )
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(data, headers=headers, media_type=kind_of(data))

    return Route(f"/{DRAWINGS}/{{job}}/{{place:int}}.png", drawing)


def _written(text: str) -> bytes:
    """A sentence as PNG."""
    lines = textwrap.wrap(text, _COLUMNS)
    size = (_COLUMNS * _LETTERS * 5 // 8, (len(lines) + 1) * _LETTERS * 3 // 2)
    image = Image.new("RGB", size, "white")
    font = ImageFont.load_default(_LETTERS)
    ImageDraw.Draw(image).text((_LETTERS, _LETTERS // 2), "\n".join(lines), "black", font)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
