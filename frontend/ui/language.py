"""The languages of the chat page: English, and Chinese by a catalogue of English words.

What stands in the layout is translated by the browser (`label`); what the server tells a tab is
written in the language of the tab that asks (`say`). Both take the English words, so that the code
reads as the page does. What the service says, errors above all, stays English.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

import gradio as gr
from gradio.context import LocalContext
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

COOKIE: Final = "heliograph_language"
_LANGUAGES: Final = ("en", "zh")
_KEEP_S: Final = 365 * 24 * 3600

CHINESE: Final[Mapping[str, str]] = json.loads(
    (files(__package__) / "chinese.json").read_text("utf-8")
)
"""Chinese by English; braces hold the same names in both."""

CATALOGUES: Final = gr.I18n(**{"en": {}, "zh-CN": dict(CHINESE)})

SWITCH: Final = (
    '<a href="language/zh" lang="zh" hreflang="zh">中文</a>'
    '<a href="language/en" lang="en" hreflang="en">English</a>'
)
"""Links to the page in each language; the style hides that to the one it is in."""


def label(text: str) -> str:
    """Words of the layout, which the browser translates."""
    return str(CATALOGUES(text))


def say(text: str, **values: object) -> str:
    """Words for the tab that asks, with values in place of the names in braces."""
    words = CHINESE.get(text, text) if _asks_in_chinese() else text
    return words.format(**values) if values else words


def _asks_in_chinese() -> bool:
    request = LocalContext.request.get(None)
    if request is None:
        return False
    wanted = request.cookies.get(COOKIE) or request.headers.get("accept-language", "")
    return bool(wanted.lower().startswith("zh"))


def _choose(request: Request) -> Response:
    language = request.path_params["language"]
    if language not in _LANGUAGES:
        raise HTTPException(404, f"The page is in these languages: {', '.join(_LANGUAGES)}.")
    page, base = request.headers.get("referer", ""), str(request.base_url)
    reply = RedirectResponse(page if page.startswith(base) else base, 303)
    reply.set_cookie(
        COOKIE,
        language,
        max_age=_KEEP_S,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return reply


CHOICE: Final = Route("/language/{language}", _choose)
"""The route that keeps a language in the browser and leads back to the page."""
