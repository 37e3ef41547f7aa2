"""Messages as the doors make them: of a role, or a ready prompt, split at its marks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from broker.messages import ChatMessage, ImagePart, Part, Role, TextPart

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


def say(role: Role, text: str, *pictures: ImagePart) -> ChatMessage:
    return ChatMessage(role=role, content=(*pictures, TextPart(text=text)))


def ready(text: str, *pictures: ImagePart, mark: str = "<image>") -> ChatMessage:
    """A ready prompt with a picture at each mark."""
    return ChatMessage(role="prompt", content=split(text, pictures, mark))


def split(text: str, pictures: Sequence[ImagePart], mark: str = "<image>") -> tuple[Part, ...]:
    texts = text.split(mark)
    assert len(pictures) == len(texts) - 1
    parts: list[Part] = []
    for piece, picture in zip_longest(texts, pictures):
        parts += [TextPart(text=piece)] if piece else []
        parts += [picture] if picture else []
    return tuple(parts)
