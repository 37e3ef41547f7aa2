"""Pictures on their way into Redis and back: checked, stored once each under their SHA-256.

Videos become frames here, which are pictures from then on. What a picture may be is `pictures`' to
say, how frames are taken `videos`'.
"""

from __future__ import annotations

from collections.abc import Callable

import redis

from broker import images
from broker.connection import redis_errors
from broker.settings import Settings
from frontend import pictures, videos

Offload = Callable[[Callable[[], None]], None]
"""Runs a computation of up to a second and returns when it is done."""


class PictureStore:
    """All pictures of one Redis; every call may raise RedisUnavailable."""

    def __init__(self, settings: Settings, client: redis.Redis, offload: Offload) -> None:
        """Keep pictures within the limits of `settings`; decode them by `offload`."""
        self._settings = settings
        self._client = client
        self._offload = offload

    def add(self, data: bytes, *, param: str | None = None) -> str:
        """Check a picture, store it and return its SHA-256.

        Raises:
            InvalidImage: not a picture that may be opened, or damaged.
            RequestTooLarge: over the byte or pixel limit.
        """
        sha256 = images.digest(data)
        with redis_errors():
            if images.exists(self._client, sha256):
                return sha256
        self._offload(
            lambda: pictures.check(
                data,
                max_bytes=self._settings.max_image_bytes,
                max_pixels=self._settings.max_image_pixels,
                param=param,
            )
        )
        with redis_errors():
            return images.put(self._client, data)

    def add_video(self, data: bytes, frames: int, *, param: str | None = None) -> tuple[str, ...]:
        """Take up to `frames` from a video, store them and return the SHA-256 of each.

        Raises:
            InvalidImage: not a video that may be opened, or damaged.
            RequestTooLarge: over the byte or pixel limit.
        """
        taken: list[bytes] = []
        self._offload(
            lambda: taken.extend(
                videos.read_frames(
                    data,
                    frames,
                    max_bytes=self._settings.max_video_bytes,
                    max_pixels=self._settings.max_image_pixels,
                    param=param,
                )
            )
        )
        with redis_errors():
            return tuple(images.put(self._client, frame) for frame in taken)

    @redis_errors()
    def read(self, sha256: str) -> bytes:
        """The uploaded bytes of a stored picture.

        Raises:
            InvalidImage: it is not stored (any more).
        """
        return images.get(self._client, [sha256])[sha256]
