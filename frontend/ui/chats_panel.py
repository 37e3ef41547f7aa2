"""The panel of chats: the list with its search, and what can be done with the open one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from frontend.ui.history import History
from frontend.ui.language import label
from frontend.ui.shown import Outputs

KEEP_ADDRESS = Path(__file__).with_name("address.js").read_text()
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

# Where several follow one change: by default each of them that had to wait for its own last time
# makes Gradio start all of them again, which then wait for each other, without end.
FOLLOWING: dict[str, Any] = {**QUIET, "trigger_mode": "multiple"}


class ChatsPanel:
    """The components where it is made, the events with `connect`."""

    def __init__(self) -> None:
        with gr.Accordion(label("Chats"), open=True, elem_id="chats"):
            gr.HTML(label('<a class="new-chat" href="./">New chat</a>'), padding=False)
            self.search = gr.Textbox(
                label=label("Search chats"),
                show_label=False,
                placeholder=label("Search"),
                container=False,
            )
            self.list = gr.HTML(padding=False, elem_id="chat-list")
        with gr.Accordion(label("This chat"), open=False, elem_id="this-chat"):
            self.title = gr.Textbox(label=label("Title"), max_lines=1, interactive=False)
            self.link = gr.Textbox(
                label=label("Link, read-only"),
                visible=False,
                interactive=False,
                buttons=["copy"],
                elem_id="share-link",
            )
            self.files = gr.HTML(padding=False)
            with gr.Row():
                self.share = gr.Button(label("Share"), size="sm", min_width=72, interactive=False)
                self.revoke = gr.Button(
                    label("Stop sharing"), size="sm", min_width=72, visible=False
                )
                self.delete = Deletion.button()
            self.deletion = Deletion(self.delete)

    def connect(
        self, history: History, bookmark: gr.Textbox, line: gr.HTML, shown: list[Any]
    ) -> None:
        """Set the events up."""
        menu = [self.title, self.link, self.files, self.share, self.revoke, self.delete]
        menu += [self.deletion.asks]
        bookmark.change(history.refresh, [bookmark, self.search], [self.list, *menu], **FOLLOWING)
        self.search.change(history.search, [bookmark, self.search], [self.list], **QUIET)
        changes = (
            (self.title.submit, history.rename, [bookmark, self.title]),
            (self.share.click, history.share, [bookmark]),
            (self.revoke.click, history.revoke, [bookmark]),
        )
        for event, handler, inputs in changes:
            event(handler, inputs, [line, bookmark], **QUIET)
        self.deletion.connect(history.delete, bookmark, shown)


class Deletion:
    """The question whether to delete what is open, under the button that asks for it."""

    def __init__(self, button: gr.Button) -> None:
        self._button = button
        with gr.Row(visible=False) as self.asks:
            self._really = gr.Button(
                label("Delete for good"), variant="stop", size="sm", min_width=72
            )
            self._keep = gr.Button(label("Keep"), size="sm", min_width=72)

    @staticmethod
    def button() -> gr.Button:
        """Make the button where it belongs."""
        return gr.Button(label("Delete"), size="sm", min_width=72, interactive=False)

    def connect(
        self, delete: Callable[..., Outputs], bookmark: gr.Textbox, shown: list[Any]
    ) -> None:
        """Set the events up; `delete` takes the bookmark and gives what is shown."""
        self._button.click(lambda: gr.update(visible=True), None, [self.asks], **QUIET)
        self._keep.click(lambda: gr.update(visible=False), None, [self.asks], **QUIET)
        self._really.click(delete, [bookmark], shown, **QUIET)
