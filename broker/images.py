"""Content-addressed image store: uploaded bytes under their SHA-256.

The bytes are kept as they came; whether they are a picture is for others to check before `put`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final, cast

import redis
from redis.client import Pipeline

from broker import keys
from broker.errors import InvalidImage

MAX_SIDE: Final = 16_384
"""Longest side of an accepted picture, in pixels; both ends check it before they decode."""

MAX_RATIO: Final = 200
"""How many times longer than the other a side may be."""


def digest(data: bytes) -> str:
    """SHA-256 of the bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def put(client: redis.Redis, data: bytes) -> str:
    """Store an image (or renew its lifetime when it is there already) and return its SHA-256."""
    sha256 = digest(data)
    if not exists(client, sha256):
        client.set(keys.image(sha256), data, ex=keys.IMAGE_TTL_S, nx=True)
    return sha256


def exists(client: redis.Redis, sha256: str) -> bool:
    """Whether the image is stored; if so its lifetime is renewed."""
    pipe = client.pipeline()
    pipe.exists(keys.image(sha256))
    keep(pipe, sha256, keys.IMAGE_TTL_S)
    return bool(pipe.execute()[0])


def keep(pipe: Pipeline, sha256: str, ttl_s: int) -> None:
    """Queue on `pipe` that an image lives for so long at least; others may need it longer."""
    pipe.expire(keys.image(sha256), ttl_s, gt=True)


def get(client: redis.Redis, sha256s: Iterable[str]) -> dict[str, bytes]:
    """Fetch images by SHA-256, each once, in one round trip.

    Raises:
        InvalidImage: one of them is not stored any more.
    """
    wanted = list(dict.fromkeys(sha256s))
    if not wanted:
        return {}
    found = dict(zip(wanted, cast(Any, client.mget(map(keys.image, wanted))), strict=True))
    missing = [sha for sha, data in found.items() if data is None]
    if missing:
        raise InvalidImage(f"Image {missing[0][:12]} is not stored any more: send it again.")
    return found
