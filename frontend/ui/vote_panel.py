"""The row that asks why, once a vote was cast: fixed reasons, a comment, and a way past them."""

from __future__ import annotations

import gradio as gr

from broker.feedback import MAX_COMMENT
from frontend.ui.chats_panel import FOLLOWING, QUIET
from frontend.ui.language import label
from frontend.ui.votes import Votes


class VotePanel:
    """The components where it is made, the events with `connect`."""

    def __init__(self) -> None:
        self.asked = gr.State("")
        self.said = gr.HTML(padding=False, elem_id="said")
        with gr.Column(visible=False, elem_id="why") as self.panel:
            self.reasons = gr.CheckboxGroup([], label=label("Why? (optional)"), interactive=True)
            with gr.Row(elem_id="why-words"):
                self.comment = gr.Textbox(
                    label=label("Comment"),
                    show_label=False,
                    placeholder=label(f"Comment, up to {MAX_COMMENT:,} characters"),
                    container=False,
                    max_length=MAX_COMMENT,
                    lines=1,
                    max_lines=4,
                    min_width=200,
                )
                self.tell = gr.Button(label("Send feedback"), size="sm", min_width=72)
                self.skip = gr.Button(label("Skip"), size="sm", min_width=56)

    def connect(self, votes: Votes, bookmark: gr.Textbox, line: gr.HTML) -> None:
        """Set the events up."""
        parts = [self.panel, self.reasons, self.comment, self.said, self.asked]
        bookmark.change(votes.refresh, [bookmark, self.asked], parts, **FOLLOWING)
        gr.on(
            [self.tell.click, self.comment.submit],
            votes.tell,
            [bookmark, self.reasons, self.comment],
            [line, bookmark],
            preprocess=False,
            **QUIET,
        )
        self.skip.click(lambda: gr.update(visible=False), None, [self.panel], **QUIET)
