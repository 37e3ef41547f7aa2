"""Long streams, read page by page, so that they may be of any length.

Entries that are no text are passed over with a line in the log: whoever reads a log of years wants
the rest of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import redis

PAGE: Final = 100
"""Entries of one read; each may hold a long conversation."""

log = logging.getLogger(__name__)


class EntryId(NamedTuple):
    """Entry id `<ms>-<n>` of a stream, by Redis's clock; compared in the stream's order."""

    milliseconds: int
    n: int

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.n}"


FIRST: Final = EntryId(0, 0)
"""Comes before every entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a stream, all of it text."""

    id: EntryId
    fields: dict[str, str]

    @property
    def time_s(self) -> float:
        """When it was written, in Unix seconds of Redis's clock."""
        return self.id.milliseconds / 1000


def walk(
    client: redis.Redis, key: str, *, after: EntryId = FIRST, most: int | None = None
) -> Iterator[Entry]:
    """Read what a stream has after an entry, oldest first, and at most so many entries."""
    while most is None or most > 0:
        count = PAGE if most is None else min(most, PAGE)
        entries: Any = client.xrange(key, f"({after}", "+", count=count)
        if not entries:
            return
        yield from decoded(key, entries)
        after = _id(entries[-1][0])
        most = None if most is None else most - count


def one(client: redis.Redis, key: str, entry_id: EntryId) -> Entry | None:
    """Read one entry; None if it is gone."""
    entries: Any = client.xrange(key, str(entry_id), str(entry_id))
    return next(decoded(key, entries), None)


def decoded(
    key: str, entries: Iterable[tuple[bytes, dict[bytes, bytes] | None]]
) -> Iterator[Entry]:
    """Read entries as redis-py gives them."""
    for raw_id, raw in entries:
        try:
            fields = {name.decode(): value.decode() for name, value in (raw or {}).items()}
        except UnicodeDecodeError:
            log.warning("entry %s of %s is no text and left out", raw_id.decode(), key)
            continue
        yield Entry(_id(raw_id), fields)


def _id(raw: bytes) -> EntryId:
    milliseconds, n = raw.split(b"-")
    return EntryId(int(milliseconds), int(n))
