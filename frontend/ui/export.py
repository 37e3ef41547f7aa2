"""A chat as a file: Markdown for people, JSON for programs.

`docs/chats.md` says what is in them.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from broker.conversation import Answer, Chat, Turn
from frontend.ui.markup import PICTURES, as_markdown

FORMAT: Final = "heliograph-chat/1"


def as_json(chat: Chat, base: str) -> str:
    """The chat as one JSON object; `base` is the page's address, with a slash at its end."""
    record = {
        "format": FORMAT,
        "title": chat.title,
        "created": _time(chat.created_s),
        "changed": _time(chat.changed_s),
        "system": chat.system,
        "turns": [_turn(turn, base) for turn in chat.turns],
    }
    return json.dumps(record, ensure_ascii=False, indent=2) + "\n"


def as_document(chat: Chat, base: str) -> str:
    """The chat as a Markdown document, with its pictures by address."""
    parts = [f"# {as_markdown(chat.title)}"]
    if chat.system:
        parts += ["**System prompt**", as_markdown(chat.system)]
    for turn in chat.turns:
        pictures = (f"![picture](<{base}{PICTURES}/{sha}>)" for sha in turn.question.images)
        parts += ["## You", *pictures, as_markdown(turn.question.text)]
        if turn.answer:
            end = _why(turn.answer)
            parts += [f"## {turn.answer.model}", as_markdown(turn.answer.text)]
            parts += [f"*{end}*"] if end else []
    return "\n\n".join(part for part in parts if part) + "\n"


def file_name(chat: Chat, ending: str) -> str:
    """A name that every file system takes, from the title."""
    words = re.sub(r"[^\w .-]+", " ", chat.title)
    return f"{' '.join(words.split()).strip('. ') or 'chat'}.{ending}"


def _turn(turn: Turn, base: str) -> dict[str, Any]:
    question = {
        "text": turn.question.text,
        "images": [
            {"sha256": sha, "url": f"{base}{PICTURES}/{sha}"} for sha in turn.question.images
        ],
    }
    return {"question": question, "answer": _answer(turn.answer) if turn.answer else None}


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "job": answer.job,
        "model": answer.model,
        "worker": answer.worker,
        "parameters": answer.sampling.model_dump(exclude_defaults=True),
        "finish_reason": answer.finish,
        "usage": asdict(answer.usage) if answer.usage else None,
        "timings": asdict(answer.timings) if answer.timings else None,
        "error": answer.error.message if answer.error else None,
        "vote": answer.vote,
        "reason": answer.reason,
        "comment": answer.comment,
    }


def _why(answer: Answer) -> str:
    """Why an answer is not whole, if it is not."""
    if answer.error:
        return answer.error.message
    if not answer.has_ended:
        return "This answer is still being written."
    return {"length": "Stopped at the token limit.", "cancelled": "Stopped."}.get(
        answer.finish or "", ""
    )


def _time(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="seconds")
