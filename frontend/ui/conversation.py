"""What one browser tab remembers: the turns so far and what may be done next.

Turns are kept as messages with pictures by SHA-256 and are rendered anew for each request, so that
a change of model needs no conversion. Nothing here knows Gradio, Redis or HTML.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from broker.messages import ChatMessage, GenerateRequest, ImagePart, Part, TextPart

Phase = Literal["empty", "answering", "answered", "failed", "voted"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of a chat, oldest first; an unanswered user's turn may stand at the end."""

    messages: tuple[ChatMessage, ...] = ()

    def ask(self, text: str, images: tuple[str, ...] = ()) -> Conversation:
        """Add the user's words and pictures (SHA-256 each); pictures come first.

        A turn that was never answered grows instead of being followed by a second one: chat
        templates of several model families refuse two turns of one speaker in a row.
        """
        parts: list[Part] = [ImagePart(sha256=sha) for sha in images]
        if text:
            parts.append(TextPart(text=text))
        if not self.messages or self.messages[-1].role != "user":
            return self._with(ChatMessage(role="user", content=tuple(parts)))
        waiting = self.messages[-1]
        gap = (TextPart(text="\n\n"),) if waiting.text and text else ()
        grown = ChatMessage(role="user", content=(*waiting.content, *gap, *parts))
        return replace(self, messages=(*self.messages[:-1], grown))

    def answer(self, text: str) -> Conversation:
        """Add an answer, whole or as far as it came; an empty one is no answer."""
        if not text:
            return self
        return self._with(ChatMessage(role="assistant", content=(TextPart(text=text),)))

    def without_answer(self) -> Conversation:
        """The turns up to the user's last, to have it answered again."""
        if self.messages and self.messages[-1].role == "assistant":
            return replace(self, messages=self.messages[:-1])
        return self

    def _with(self, message: ChatMessage) -> Conversation:
        return replace(self, messages=(*self.messages, message))


@dataclass(slots=True)
class Session:
    """The state of one tab. `request` is the job of the last answer, or of the one under way."""

    conversation: Conversation = field(default_factory=Conversation)
    phase: Phase = "empty"
    request: GenerateRequest | None = None
    models: tuple[str, ...] = ()


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
