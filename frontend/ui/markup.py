"""Turns as the chat box shows them: Markdown without HTML, pictures by address.

HTML in what people and models write is shown as text. Only Markdown is interpreted; the page's
own sanitiser and its content policy stand behind this, so a mistake here spoils looks, not safety.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from broker.messages import ChatMessage
from frontend.ui.conversation import Conversation

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
# formula if they touch it, no digit or letter touches them outside, and it is one word or has a
# sign of mathematics: "$5 and $6" is money.
_TAG_OR_LITERAL = re.compile(
    r"""
      (?P<literal>
          ^[ ]{0,3}(?P<fence>`{3,}|~{3,}) .*? (?: ^[ ]{0,3}(?P=fence)[`~]*[ ]*$ | \Z)
        | (?P<ticks>`+) (?!`) .+? (?<!`) (?P=ticks) (?!`)
        | \$\$ .+? \$\$ | \\\( .+? \\\) | \\\[ .+? \\\]
      )
    | (?<! [\w\\$] ) \$ (?P<formula>
          [^\s$]+
        | (?! \s ) (?= [^$\n]* [\\^_={}+*|<>] ) [^$\n]+ (?<! \s )
      ) (?<! \\ ) \$ (?! [\w$] )
    | < (?= [A-Za-z/!?] )
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def as_markdown(text: str) -> str:
    """Text with its HTML made visible; code and formulas stay as they are."""
    return _TAG_OR_LITERAL.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    if match["formula"]:
        return f"\\({match['formula']}\\)"
    return match["literal"] or "&lt;"


def render(conversation: Conversation, answer: str | None = None) -> list[dict[str, Any]]:
    """The messages of Gradio's chat box; `answer` is the one that is being written."""
    shown = bubbles(conversation.messages)
    if answer:
        shown.append(_bubble("assistant", as_markdown(answer)))
    return shown


def bubbles(messages: Iterable[ChatMessage]) -> list[dict[str, Any]]:
    """Turns as messages of Gradio's chat box."""
    return [_message(message) for message in messages]


def _message(message: ChatMessage) -> dict[str, Any]:
    """One bubble: its pictures first, its text below."""
    pictures = (f"![picture {sha[:8]}]({PICTURES}/{sha})" for sha in message.images)
    return _bubble(message.role, "\n\n".join((*pictures, as_markdown(message.text))))


def _bubble(role: str, markdown: str) -> dict[str, Any]:
    # A typed part, for a plain string would be dedented.
    return {"role": role, "content": [{"type": "text", "text": markdown}]}
