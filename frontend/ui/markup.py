"""Turns as the chat box shows them: Markdown without HTML, pictures by address.

HTML in what people and models write is shown as text. Only Markdown is interpreted; the page's
own sanitiser and its content policy stand behind this, so a mistake here spoils looks, not safety.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from broker.conversation import Chat, Turn
from broker.messages import ChatMessage
from frontend.ui.answer import LONG_CHARACTERS
from frontend.ui.boxes import plain
from frontend.ui.drawings import asked_for
from frontend.ui.grounding import drawn

PICTURES = "pictures"
"""Where `frontend.ui.web` serves stored pictures, relative to the page."""

LATEX_DELIMITERS: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
"""No single dollar: `as_markdown` turns those around a formula into the last of these."""

# What Markdown or KaTeX escape themselves: fenced code (open to the end while it streams), code
# spans, formulas. Outside of these, a `<` that could open a tag is escaped. Single dollars mean a
# formula if they touch it, no digit or Latin letter touches them outside (Chinese has no blanks
# there), and it is one word or has a sign of mathematics: "$5 and $6" is money.
_TAG_OR_LITERAL = re.compile(
    r"""
      (?P<literal>
          ^[ ]{0,3}(?P<fence>`{3,}|~{3,}) .*? (?: ^[ ]{0,3}(?P=fence)[`~]*[ ]*$ | \Z)
        | (?P<ticks>`+) (?!`) .+? (?<!`) (?P=ticks) (?!`)
        | \$\$ .+? \$\$ | \\\( .+? \\\) | \\\[ .+? \\\]
      )
    | (?<! [A-Za-z0-9\\$] ) \$ (?P<formula>
          (?: \\\$ | [^\s$] )+
        | (?! \s ) (?= [^$\n]* [\\^_={}+*|<>] ) (?: \\\$ | [^$\n] )+ (?<! \s )
      ) (?<! \\ ) \$ (?! [A-Za-z0-9$] )
    | (?: < | &lt; ) (?= [A-Za-z/!?] )
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_FENCE = re.compile(r"^([ ]{0,3}(?:`{3,}|~{3,}))[^`\n]+$", re.MULTILINE)
_PICTURES = re.compile(
    rf"^(?:!\[picture [0-9a-f]{{8}}\]\({PICTURES}/[0-9a-f]{{64}}\)(?:\n\n|\s*\Z)?)+"
)


def as_markdown(text: str) -> str:
    """Text with its HTML made visible; code and formulas stay as they are."""
    return _TAG_OR_LITERAL.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    if match["formula"]:
        return f"\\({match['formula']}\\)"
    return match["literal"] or "&lt;"


def render(chat: Chat, *, draws: bool = True) -> list[dict[str, Any]]:
    """The messages of Gradio's chat box; `draws`: with the pictures that answers ask for."""
    return [
        _answer(chat.turns[: place + 1], draws)
        if message.role == "assistant"
        else _message(message)
        for place, message in _bubbles(chat)
    ]


def turn_at(chat: Chat, place: int) -> int:
    """Which turn the message at this place of the chat box belongs to; -1 if none does."""
    turns = [turn for turn, _ in _bubbles(chat)]
    return turns[place] if 0 <= place < len(turns) else -1


def as_text(markdown: str) -> str:
    """What a person wrote, from the bubble that shows it and that they may have edited."""
    words = _PICTURES.sub("", markdown)
    return _TAG_OR_LITERAL.sub(lambda match: "<" if match[0] == "&lt;" else match[0], words)


def _bubbles(chat: Chat) -> Iterator[tuple[int, ChatMessage]]:
    spoken = (message for message in chat.messages if message.role != "system")
    for place, turn in enumerate(chat.turns):
        yield place, next(spoken)
        if turn.answer and turn.answer.text:
            yield place, next(spoken)


def _message(message: ChatMessage) -> dict[str, Any]:
    """One bubble: its pictures first, its text below."""
    pictures = (f"![picture {sha[:8]}]({PICTURES}/{sha})" for sha in message.images)
    return _bubble(message.role, *pictures, as_markdown(message.text))


def _answer(turns: Sequence[Turn], draws: bool) -> dict[str, Any]:
    """The bubble of the last turn's answer: its text, pictures that it points at or asks for."""
    answer = turns[-1].answer
    assert answer is not None
    text = as_markdown(plain(answer.text, growing=not answer.has_ended))
    if not answer.has_ended:
        # A fence without a language: its code has no colours.
        is_long = len(answer.text) > LONG_CHARACTERS
        return _bubble("assistant", _FENCE.sub(r"\1", text) if is_long else text)
    asked = [turn.question for turn in turns]
    boxes = drawn(answer.text, asked, answer.sampling.image_process_mode)
    return _bubble("assistant", text, *boxes, *(asked_for(answer) if draws else ()))


def _bubble(role: str, *parts: str) -> dict[str, Any]:
    # A typed part, for a plain string would be dedented.
    return {"role": role, "content": [{"type": "text", "text": "\n\n".join(parts)}]}
