"""The list of battles, and the buttons that delete the open one."""

from __future__ import annotations

from typing import Any

import gradio as gr

from frontend.ui.battle_history import BattleHistory
from frontend.ui.chats_panel import QUIET, Deletion
from frontend.ui.language import label


class BattlesPanel:
    """The components where it is made, the events with `connect`."""

    def __init__(self) -> None:
        with gr.Accordion(label("Battles"), open=False, elem_id="battles"):
            self.list = gr.HTML(padding=False, elem_id="battle-list")
            with gr.Row():
                self.delete = Deletion.button()
            self.deletion = Deletion(self.delete)

    def connect(
        self, page: gr.Blocks, history: BattleHistory, bookmark: gr.Textbox, shown: list[Any]
    ) -> None:
        """Set the events up; `shown` is what deleting changes."""
        for event in (page.load, bookmark.change):
            event(
                history.refresh,
                [bookmark],
                [self.list, self.delete, self.deletion.asks],
                **QUIET,
            )
        self.deletion.connect(history.delete, bookmark, shown)
