"""A moderator behind OpenAI's moderation API, for texts and pictures.

Such servers take one picture a request, so that a message with several is asked about in parts, at
the same time. Neither the key nor what is asked about gets into an error or a log.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import Any, Final

import httpx2
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from frontend.moderation.verdict import ModerationFailed, Verdict
from frontend.pictures import FORMATS

MAX_REPLY_BYTES: Final = 2**20
MAX_CATEGORIES: Final = 20
MAX_CATEGORY: Final = 60


class _Result(BaseModel):
    flagged: bool = Field(strict=True)
    categories: dict[str, bool | None] = {}


class _Reply(BaseModel):
    results: list[_Result] = Field(min_length=1)


class Endpoint:
    """Asks `url`, of an OpenAI-compatible server's API or of its `/moderations` itself."""

    name = "endpoint"

    def __init__(self, url: str, *, key: str, model: str, timeout_s: float) -> None:
        """Connect to nothing yet; `timeout_s` is for a whole verdict."""
        base = url.rstrip("/")
        self._url = base if base.endswith("/moderations") else f"{base}/moderations"
        self._headers = {"Accept-Encoding": "identity"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._model = model
        self._timeout_s = timeout_s

    def judge(self, text: str, images: Sequence[bytes]) -> Verdict:
        """Ask the server about all of it.

        Raises:
            ModerationFailed: it did not answer in time, or not as it must.
        """
        return asyncio.run(self._judge(text, images))

    async def _judge(self, text: str, images: Sequence[bytes]) -> Verdict:
        inputs: list[list[dict[str, Any]]] = [[_picture(image)] for image in images] or [[]]
        if text:
            sendable = text.encode(errors="replace").decode()
            inputs[0].insert(0, {"type": "text", "text": sendable})
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                httpx2.AsyncClient(headers=self._headers, timeout=None, trust_env=False) as client,
            ):
                asked = (self._ask(client, part) for part in inputs if part)
                verdicts = await asyncio.gather(*asked)
        except TimeoutError:
            raise ModerationFailed(f"no answer within {self._timeout_s:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ModerationFailed(f"the connection failed ({type(error).__name__})") from None
        categories = dict.fromkeys(each for verdict in verdicts for each in verdict.categories)
        return Verdict(
            any(verdict.flagged for verdict in verdicts), tuple(categories)[:MAX_CATEGORIES]
        )

    async def _ask(self, client: httpx2.AsyncClient, part: list[dict[str, Any]]) -> Verdict:
        body = {"model": self._model, "input": part}
        async with client.stream("POST", self._url, json=body) as response:
            if response.status_code != 200:
                raise ModerationFailed(f"it answered HTTP {response.status_code}")
            data = b""
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > MAX_REPLY_BYTES:
                    raise ModerationFailed(f"its answer has more than {MAX_REPLY_BYTES:,} bytes")
        return _read(data)


def _read(data: bytes) -> Verdict:
    try:
        results = _Reply.model_validate_json(data).results
    except ValidationError:  # its words quote the answer
        raise ModerationFailed("its answer is not one of a moderation API") from None
    categories = (name for each in results for name, on in each.categories.items() if on)
    return Verdict(
        any(each.flagged for each in results),
        tuple(name[:MAX_CATEGORY] for name in categories),
    )


def _picture(data: bytes) -> dict[str, Any]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            kind = image.get_format_mimetype()
    except Exception:  # openers raise whatever damage leads to
        raise ModerationFailed("a picture cannot be opened") from None
    encoded = base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}
