"""The box for a message with its pictures, and the line below it that says what may be sent.

Gradio's box takes pictures by a chooser (a phone's offers its camera), by drag and by paste, and
shows them by address; `message_box.js` adds what it lacks. What may be sent is `attaching`'s to
say.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import gradio as gr

from frontend.ui.language import label
from frontend.ui.uploads import Upload

COMPLETE = Path(__file__).with_name("message_box.js").read_text()
"""Run once the page is there."""

FILES = "(message) => message.files.map((file) => file.path).join('\\n')"
"""What changes when a picture is added or removed, but not when somebody types."""

_NEVER = 10**9


class Message(TypedDict):
    """What is in the box."""

    text: str
    files: list[Upload]


EMPTY = Message(text="", files=[])


def message_box() -> gr.MultimodalTextbox:
    """Make the box, to be rendered later. Enter sends, Shift+Enter begins a new line."""
    return gr.MultimodalTextbox(
        label=label("Message"),
        show_label=False,
        placeholder=label("Ask something"),
        file_count="multiple",
        sources=["upload"],
        lines=1,
        max_lines=8,
        max_plain_text_length=_NEVER,  # beyond it a text that is pasted becomes a file
        submit_btn=False,
        scale=8,
        min_width=120,
        elem_id="message",
        render=False,
    )
