"""Records that expire one by one: a set of names, and for each name a hash that may be gone.

Whoever reads them sweeps the names whose hash is gone, and passes over a hash of another version
or of a stranger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar

import redis
from redis.exceptions import ReadOnlyError, ResponseError

log = logging.getLogger(__name__)

T = TypeVar("T")

Parse = Callable[[dict[str, Any]], T]
"""Makes a record of a hash's fields; raises ValueError or KeyError if it cannot."""


def read_all(
    client: redis.Redis, names_key: str, key_of: Callable[[str], str], parse: Parse[T]
) -> list[T]:
    """Read the records that are there, by name."""
    raw: Any = client.smembers(names_key)
    names = sorted(member.decode(errors="backslashreplace") for member in raw)
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.hgetall(key_of(name))
    found = dict(zip(names, pipe.execute(raise_on_error=False), strict=True))
    gone = [name for name, record in found.items() if not record]
    if gone:
        with suppress(ReadOnlyError):  # what is there can be read from a replica all the same
            client.srem(names_key, *gone)
    read = (_read(key_of(name), record, parse) for name, record in found.items() if record)
    return [record for record in read if record is not None]


def _read(key: str, record: dict[bytes, bytes] | Exception, parse: Parse[T]) -> T | None:
    try:
        if isinstance(record, Exception):
            raise record
        return parse({field.decode(): value.decode() for field, value in record.items()})
    except (ValueError, KeyError, ResponseError) as error:
        _warn_once(key, type(error).__name__)
        return None


@lru_cache(maxsize=1024)
def _warn_once(key: str, error: str) -> None:
    log.warning("%s cannot be read (%s): is that worker of another version?", key, error)
