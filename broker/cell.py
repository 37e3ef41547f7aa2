"""A cell is one Redis with its workers and doors; its id tells it from others it is connected to.

A request that goes on to another cell names the cells it has come through, in the header `HEADER`
(and in a worker payload's field `FIELD`), so that none of them takes it twice.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

import redis

from broker import keys
from broker.errors import LoopDetected

HEADER: Final = "X-Heliograph-Path"
FIELD: Final = "heliograph_path"
CELL_HEADER: Final = "X-Heliograph-Cell"
"""In the answer of `/worker_get_status`: the id of a cell, which tells it from other workers."""

SLOTS_HEADER: Final = "X-Heliograph-Slots"
"""There as well: how many requests the cell answers at a time."""

MAX_PATH: Final = 8
"""Cells that a request may come through."""


def cell_id(client: redis.Redis) -> str:
    """Id of the cell that `client` belongs to; whoever asks first makes it up."""
    fresh = uuid.uuid4().hex[:12]
    found: Any = client.set(keys.CELL, fresh, nx=True, get=True)
    return fresh if found is None else str(found.decode())


def check_path(path: tuple[str, ...], own: str) -> None:
    """Refuse a request that has been here.

    Raises:
        LoopDetected: `own` is on the path, or the path is longer than `MAX_PATH`.
    """
    if own in path:
        raise LoopDetected(
            f"The request has come through this cell ({own}) before: the cells are connected in a "
            "circle. Take one of them out of the other's workers."
        )
    if len(path) > MAX_PATH:
        raise LoopDetected(
            f"The request has come through {len(path)} cells; at most {MAX_PATH} may stand in a "
            "row. Connect them more directly."
        )


def read_path(text: str) -> tuple[str, ...]:
    """Read a path from its header's value; what is no id is left out."""
    return tuple(part for part in (each.strip() for each in text.split(",")) if part.isalnum())


def write_path(path: tuple[str, ...]) -> str:
    """Write a path as its header's value."""
    return ",".join(path)
