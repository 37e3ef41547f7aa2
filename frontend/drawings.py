"""Pictures that an answer asks for, as InternVL's do: by a block of code in `drawing-instruction`.

A drawing worker makes them: `POST {url}/generate_image/` with `{"caption": ...}`, which it answers
with a picture. Each is made once, when somebody looks at the answer, and kept as long as a chat.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

import httpx2
import redis
from redis.exceptions import LockError

from broker import images, keys
from broker.channel import read_log
from broker.connection import redis_errors
from broker.errors import InvalidImage, JobNotFound, RequestTooLarge, UpstreamFailed
from broker.events import Delta, End
from broker.settings import Settings
from frontend.picture_store import PictureStore

MOST: Final = 4
"""Pictures of one answer."""

_INSTRUCTION = re.compile(r"^```drawing-instruction[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def captions(answer: str) -> list[str]:
    """What an answer wants to have drawn, in order."""
    found = (text.strip() for text in _INSTRUCTION.findall(answer))
    return [text for text in found if text][:MOST]


class Drawings:
    """The pictures of all answers of one Redis."""

    def __init__(self, settings: Settings, client: redis.Redis, pictures: PictureStore) -> None:
        """Have pictures made by the worker that `settings` name, and put them into a store."""
        self._url = settings.drawing_url.rstrip("/")
        self._timeout_s = settings.drawing_timeout_s
        self._max_bytes = settings.max_image_bytes
        self._client = client
        self._pictures = pictures

    @redis_errors()
    def read(self, job_id: str, place: int) -> bytes:
        """A picture of a job's answer, the one at `place` (from 0); it is made if there is none.

        Raises:
            JobNotFound: its answer is not known (any more), or wants no such picture.
            UpstreamFailed: nobody makes pictures, or not this one.
            RedisUnavailable: Redis does not answer.
        """
        try:
            return self._kept(job_id, place) or self._made(job_id, place)
        except LockError:
            raise UpstreamFailed("Others wait for this picture too. Reload the page.") from None

    def _kept(self, job_id: str, place: int) -> bytes | None:
        sha256: Any = self._client.hget(keys.drawings(job_id), str(place))
        return self._pictures.read(sha256.decode()) if sha256 else None

    def _made(self, job_id: str, place: int) -> bytes:
        wanted = captions(self._answer(job_id))
        if place >= len(wanted):
            raise JobNotFound("This picture is not known (any more): regenerate the answer.")
        if not self._url:
            raise UpstreamFailed("No drawing worker is set up here (HELIOGRAPH_DRAWING_URL).")
        # Of all who look at the answer at the same time one has it made.
        patience_s = 2 * self._timeout_s
        lock = keys.drawing_lock(job_id, place)
        with self._client.lock(lock, timeout=patience_s, blocking_timeout=patience_s):
            return self._kept(job_id, place) or self._keep(job_id, place, self._ask(wanted[place]))

    def _answer(self, job_id: str) -> str:
        events = read_log(self._client, job_id)
        return "".join(each.text for each in events if isinstance(each, Delta | End))

    def _keep(self, job_id: str, place: int, picture: bytes) -> bytes:
        try:
            sha256 = self._pictures.add(picture)
        except (InvalidImage, RequestTooLarge) as error:
            raise UpstreamFailed(f"The drawing worker's answer: {error.message}") from None
        pipe = self._client.pipeline()
        pipe.hset(keys.drawings(job_id), str(place), sha256)
        pipe.expire(keys.drawings(job_id), keys.CHAT_TTL_S)
        images.keep(pipe, sha256, keys.CHAT_TTL_S)
        pipe.execute()
        return picture

    def _ask(self, caption: str) -> bytes:
        end_s = time.monotonic() + self._timeout_s
        data = b""
        try:
            with (
                httpx2.Client(timeout=self._timeout_s, trust_env=False) as client,
                client.stream(
                    "POST", f"{self._url}/generate_image/", json={"caption": caption}
                ) as reply,
            ):
                if reply.status_code != 200:
                    raise UpstreamFailed(f"The drawing worker answered HTTP {reply.status_code}.")
                for piece in reply.iter_bytes():
                    data += piece
                    if len(data) > self._max_bytes:
                        raise UpstreamFailed("The drawing worker's picture is too large.")
                    if time.monotonic() > end_s:
                        raise httpx2.ReadTimeout("too slow")
        except httpx2.TimeoutException:
            raise UpstreamFailed(
                f"The drawing worker gave no picture within {self._timeout_s} s."
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UpstreamFailed(
                f"The drawing worker cannot be reached ({type(error).__name__})."
            ) from None
        return data
