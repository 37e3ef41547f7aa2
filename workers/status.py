"""What a foreign worker says of itself when it is asked: `/worker_get_status`, checked.

Another cell answers as the originals' workers do, and tells by headers what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import httpx2

from broker import cell
from broker.errors import UpstreamFailed
from workers.outbound import ask

ASK_S: Final = 5.0
"""Longest wait for an answer that needs no computing."""

_MAX_SLOTS = 4096
_MAX_MODELS = 64
_MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class Status:
    """Models, and requests that wait or run there; a cell's id and slots are empty for others."""

    models: tuple[str, ...]
    queue_length: int
    cell: str
    slots: int


async def ask_status(client: httpx2.AsyncClient, address: str) -> Status:
    """Ask a worker.

    Raises:
        UpstreamFailed: it does not answer, or with something else; without a subject.
    """
    reply, headers = await ask(client, f"{address}/worker_get_status", {}, ASK_S)
    names, queue_length = reply.get("model_names"), reply.get("queue_length", 0)
    if not isinstance(names, list) or not all(map(_is_name, names)) or len(names) > _MAX_MODELS:
        raise UpstreamFailed("did not answer with the names of its models")
    if type(queue_length) is not int:
        raise UpstreamFailed("did not answer with the length of its queue")
    return Status(
        models=tuple(dict.fromkeys(names)),
        queue_length=max(0, queue_length),
        cell=headers.get(cell.CELL_HEADER, ""),
        slots=_slots(headers.get(cell.SLOTS_HEADER, "")),
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME and value.isprintable()


def _slots(text: str) -> int:
    return min(_MAX_SLOTS, int(text)) if text.isascii() and text.isdigit() else 0
