"""The page "Side by side": two models answer the same message, a vote, and the leaderboard."""

from __future__ import annotations

from typing import Any

import gradio as gr

from broker.settings import Settings
from broker.side_by_side import SIDES
from frontend.ui.battle_handlers import BattleHandlers
from frontend.ui.battle_live import BattleLive, Seen
from frontend.ui.battle_shown import VOTES, modes
from frontend.ui.battles_panel import BattlesPanel
from frontend.ui.camera import camera_button
from frontend.ui.chats_panel import KEEP_ADDRESS, QUIET
from frontend.ui.language import SWITCH, label
from frontend.ui.markup import LATEX_DELIMITERS
from frontend.ui.oversize import oversize_line
from frontend.ui.parameters import sampling_sliders

REFRESH_S = 5.0
BOARD_S = 2.0


class BattlePage:
    """The components, then the events; built within a page of Gradio's."""

    def __init__(self, page: gr.Blocks, handlers: BattleHandlers, settings: Settings) -> None:
        self.seen = gr.State(Seen())
        # Kept by the browser, so that any process goes on with the battle; and the answers of
        # another tab to go on with.
        self.bookmark, self.resume = (
            gr.Textbox("", visible="hidden", show_label=False, container=False) for _ in range(2)
        )
        gr.HTML(
            label(
                "<h1>Side by side</h1>"
                "<p>Two models answer the same message: which one is better?</p>"
                '<a href="./">Chat</a>'
            )
            + SWITCH,
            elem_id="heading",
            padding=False,
        )
        with gr.Row(elem_id="contest"):
            self.mode = gr.Radio(
                modes(),
                value="anonymous",
                label=label("Models"),
                interactive=True,
                min_width=340,
            )
            self.models = [
                gr.Dropdown(
                    [],
                    label=label(f"{name.capitalize()} model"),
                    interactive=True,
                    visible=False,
                    min_width=160,
                )
                for name in SIDES
            ]
        self.notice = gr.HTML(elem_id="notice", padding=False)
        with gr.Row(elem_id="sides"):
            sides = [self._build_side(name) for name in SIDES]
        self.names, self.chats, self.lines = (list(parts) for parts in zip(*sides, strict=True))
        self._build_inputs(page, settings)
        self.battles = BattlesPanel()
        self.board = gr.HTML(elem_id="board", padding=False)
        self._connect(page, handlers)
        self._keep_up(page, handlers.live)

    def _build_side(self, name: str) -> tuple[gr.HTML, gr.Chatbot, gr.HTML]:
        with gr.Column(min_width=280, elem_id=name):
            heading = gr.HTML(elem_classes=["name"], padding=False)
            chat = gr.Chatbot(
                label=label(f"{name.capitalize()} chat"),
                show_label=False,
                height=None,
                layout="bubble",
                latex_delimiters=LATEX_DELIMITERS,
                buttons=["copy"],
                feedback_options=None,
                placeholder=label("The answer comes here."),
                elem_classes=["answers"],
            )
            line = gr.HTML(elem_id=f"{name}-line", padding=False)
        return heading, chat, line

    def _build_inputs(self, page: gr.Blocks, settings: Settings) -> None:
        self.line = gr.HTML(elem_id="line", padding=False)
        with gr.Row(elem_id="votes"):
            self.votes = [
                gr.Button(label(name), size="sm", min_width=72, interactive=False)
                for name in VOTES.values()
            ]
        with gr.Row(elem_id="ask"):
            self.message = gr.Textbox(
                label=label("Message"),
                placeholder=label("Ask both"),
                lines=1,
                max_lines=8,
                scale=8,
                min_width=120,
                elem_id="message",
            )
            self.send = gr.Button(label("Send"), variant="primary", scale=1, min_width=72)
            self.stop = gr.Button(label("Stop"), scale=1, min_width=72, interactive=False)
        with gr.Row(elem_id="after"):
            self.regenerate, self.anew = (
                gr.Button(label(name), size="sm", min_width=72, interactive=False)
                for name in ("Regenerate", "New round")
            )
            camera_button(page)
        self.pictures = gr.File(
            label=f"{label('Images, each up to')} {settings.max_image_bytes / 2**20:.0f} MB",
            file_count="multiple",
            file_types=["image"],
            type="filepath",
            height=120,
            elem_id="pictures",
        )
        oversize_line(page, [self.send.click, self.message.submit], settings)
        with gr.Accordion(label("Parameters"), open=False, elem_id="parameters"):
            self.parameters = sampling_sliders(0.7, 1.0, 1024)

    def _connect(self, page: gr.Blocks, handlers: BattleHandlers) -> None:
        buttons = [self.send, self.stop, self.regenerate, self.anew, *self.votes]
        choices = [self.mode, *self.models]
        boxes = [self.message, self.pictures]
        shown = [*self.names, *self.chats, *self.lines, self.line, self.bookmark, *buttons]
        # Not preprocessed: opening pictures is the service's, which says what is wrong with them.
        raw: dict[str, Any] = {"preprocess": False, **QUIET}
        asked = gr.on(
            [self.send.click, self.message.submit],
            handlers.ask,
            [self.bookmark, *boxes, *choices, *self.parameters],
            [*boxes, *choices, *shown],
            **raw,
        )
        again = self.regenerate.click(
            handlers.regenerate, [self.bookmark, *self.parameters], shown, **raw
        )
        self.opened = page.load(handlers.open, None, [*choices, *self.parameters, *shown], **QUIET)
        resumed = self.resume.change(None, [self.resume], None, js="(battle) => []", **QUIET)
        for event in (asked, again, self.opened, resumed):
            for name, chat, line in zip(SIDES, self.chats, self.lines, strict=True):
                event.then(
                    handlers.stream(name),
                    [self.bookmark],
                    [chat, line],
                    concurrency_id="streams",
                    **QUIET,
                ).then(
                    handlers.settle,
                    [self.bookmark],
                    [self.line, self.bookmark, *buttons],
                    concurrency_id="settle",
                    concurrency_limit=1,  # in turn: the side that ends last has the last word
                    **QUIET,
                )
        self.stop.click(handlers.stop, [self.bookmark], None, queue=False, **QUIET)
        self.anew.click(handlers.begin_anew, None, [*boxes, *choices, *shown], **QUIET)
        for button, outcome in zip(self.votes, VOTES, strict=True):
            button.click(handlers.vote(outcome), [self.bookmark], shown, **QUIET)
        gr.Timer(REFRESH_S).tick(handlers.look, [self.bookmark], [*shown, self.resume], **QUIET)
        self.bookmark.change(None, [self.bookmark], None, js=KEEP_ADDRESS, **QUIET)
        self.battles.connect(page, handlers.history, self.bookmark, [*choices, *shown])
        page.unload(handlers.leave)

    def _keep_up(self, page: gr.Blocks, live: BattleLive) -> None:
        for event in (self.opened.then, self.mode.input, gr.Timer(REFRESH_S).tick):
            event(
                live.models,
                [self.seen, self.mode, *self.models],
                [*self.models, self.notice],
                preprocess=False,
                **QUIET,
            )
        for event in (page.load, gr.Timer(BOARD_S).tick):
            event(live.board, [self.seen], self.board, **QUIET)
