"""What may be done next in a chat, and where a tab stands in it.

Nothing here knows Gradio, Redis or HTML.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from broker.conversation import Chat, Kept
from broker.errors import ChatChanged

Phase = Literal["empty", "answering", "answered", "failed", "voted"]


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Which chat or battle a tab shows, and which version; the browser keeps it as `ID:VERSION`."""

    chat: str = ""
    version: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Bookmark:
        """Read what a browser sent; anything of another form is no bookmark."""
        found = re.fullmatch(r"([\w-]{1,64}):([0-9]{1,9})", text or "", re.ASCII)
        return cls(found[1], int(found[2])) if found else cls()

    @classmethod
    def of(cls, record: Kept) -> Bookmark:
        """The bookmark of a tab that shows this."""
        return cls(record.id, record.version) if record.version else cls()

    def check(self, record: Kept) -> None:
        """Raise ChatChanged if the tab shows another version."""
        if record.version != self.version:
            raise ChatChanged(record.kind)

    def __str__(self) -> str:
        return f"{self.chat}:{self.version}" if self.chat else ""


def phase(chat: Chat) -> Phase:
    """Where a chat stands."""
    if not chat.turns:
        return "empty"
    if chat.under_way:
        return "answering"
    if chat.last is None or chat.last.error or not chat.last.text:
        return "failed"
    return "voted" if chat.last.vote else "answered"


@dataclass(frozen=True, slots=True)
class Controls:
    """Which buttons may be pressed."""

    send: bool
    stop: bool
    regenerate: bool
    clear: bool
    vote: bool

    @classmethod
    def of(cls, phase: Phase) -> Controls:
        """The buttons of a phase.

        While an answer streams only Stop; after it everything; after an error only Regenerate and
        Clear; a vote is given once.
        """
        ended = phase in ("answered", "failed", "voted")
        return cls(
            send=phase != "answering",
            stop=phase == "answering",
            regenerate=ended,
            clear=ended,
            vote=phase == "answered",
        )
