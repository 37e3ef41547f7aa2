"""Chats and votes as JSON objects, for people's scripts: read page by page, in order of time.

`everything` is what the streams hold. `llava` are the lines of LLaVA's and FastChat's log files,
with no field more. What cannot be read is left out with a line in the log. `broker.preferences`
makes training pairs of the same votes.
"""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import redis
from pydantic import TypeAdapter

from broker import keys, pages
from broker.messages import ChatMessage, TextPart, pictures

Row = dict[str, Any]

SIDES: Final = ("left", "right")

_MESSAGES: Final = TypeAdapter(tuple[ChatMessage, ...])
_BATTLES: Final = {
    "left": "leftvote",
    "right": "rightvote",
    "tie": "tievote",
    "bothbad": "bothbad_vote",
}
_ROLES: Final = ("USER", "ASSISTANT")

log = logging.getLogger(__name__)


def everything(client: redis.Redis) -> Iterator[Row]:
    """All fields of all chats and votes; `type` is "chat" or the kind of vote."""
    return _rows(_merged(client), _whole)


def llava(client: redis.Redis) -> Iterator[Row]:
    """Lines of LLaVA's log files for chats and votes, and of FastChat's for battles.

    Pictures are named by the SHA-256 of their bytes, where LLaVA has an MD5 of their pixels. Jobs
    that failed have no line, as there. `ip` is empty where it is not known.
    """
    chats = (entry for entry in _merged(client) if not entry.fields.get("error"))
    return _rows(chats, _llava)


def messages_of(text: str) -> tuple[ChatMessage, ...]:
    """Read a conversation as it was logged.

    Raises:
        ValueError: it is none.
    """
    return _MESSAGES.validate_json(text)


def left_out(entry: pages.Entry, error: Exception) -> None:
    """Log that an entry cannot be read. Nothing of what it says gets into the log."""
    why = f"field {error} is missing" if isinstance(error, KeyError) else type(error).__name__
    log.warning("entry %s is broken and left out: %s", entry.id, why)


def _merged(client: redis.Redis) -> Iterator[pages.Entry]:
    logs = (pages.walk(client, key) for key in (keys.CHAT_LOG, keys.FEEDBACK_LOG))
    return heapq.merge(*logs, key=lambda entry: entry.id)


def _rows(entries: Iterable[pages.Entry], write: Callable[[pages.Entry], Row]) -> Iterator[Row]:
    for entry in entries:
        try:
            yield write(entry)
        except (ValueError, KeyError) as error:
            left_out(entry, error)


def _whole(entry: pages.Entry) -> Row:
    fields: Row = dict(entry.fields)
    kind = fields.pop("vote", "chat")
    row: Row = {"id": str(entry.id), "tstamp": entry.time_s, "type": kind}
    for name, text in fields.items():
        if name.endswith(("messages", "params")):
            row[name] = json.loads(text)
        elif name == "images":
            row[name] = text.split()
        elif name in ("start", "finish"):
            row[name] = float(text)
        else:
            row[name] = text
    return row


def _llava(entry: pages.Entry) -> Row:
    fields = entry.fields
    kind = fields.get("vote")
    if kind in _BATTLES:
        shown = fields["anonymous"] == "no"
        return {
            "tstamp": round(entry.time_s, 4),
            "type": _BATTLES[kind],
            "models": [fields[f"{side}_model"] if shown else "" for side in SIDES],
            "states": [_side(fields, side) for side in SIDES],
            "ip": fields["ip"],
        }
    state = _state(messages_of(fields["messages"]), fields["answer"])
    if kind:
        return {
            "tstamp": round(entry.time_s, 4),
            "type": kind,
            "model": fields["model"],
            "state": state,
            "ip": fields["ip"],
        }
    start, finish = (round(float(fields[name]), 4) for name in ("start", "finish"))
    return {
        "tstamp": finish,
        "type": "chat",
        "model": fields["model"],
        "start": start,
        "finish": finish,
        "state": state,
        "images": fields["images"].split(),
        "ip": fields.get("ip", ""),
    }


def _side(fields: dict[str, str], side: str) -> Row:
    state = _state(messages_of(fields[f"{side}_messages"]), fields[f"{side}_answer"])
    return state | {"conv_id": fields[f"{side}_job"], "model_name": fields[f"{side}_model"]}


def _state(messages: Sequence[ChatMessage], answer: str) -> Row:
    """A conversation as LLaVA writes it down, in its usual form (`vicuna_v1`)."""
    turns = [
        [_ROLES[message.role == "assistant"], _text(message)]
        for message in messages
        if message.role != "system"
    ]
    return {
        "system": "\n".join(message.text for message in messages if message.role == "system"),
        "roles": list(_ROLES),
        "messages": [*turns, [_ROLES[1], answer]],
        "offset": 0,
        "sep": " ",
        "sep2": "</s>",
    }


def _text(message: ChatMessage) -> str:
    """A turn with `<image>` on a line of its own for each picture, where it stands."""
    lines: list[str] = []
    for is_text, parts in groupby(message.content, lambda part: isinstance(part, TextPart)):
        if is_text:
            lines.append("".join(part.text for part in parts if isinstance(part, TextPart)))
        else:
            lines.extend("<image>" for part in parts for _ in pictures(part))
    return "\n".join(lines)
