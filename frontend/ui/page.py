"""The layout of the chat page and which event calls which handler."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import gradio as gr
from gradio.components.navbar import Navbar
from gradio.utils import get_upload_folder

from broker.messages import ImageProcessMode
from broker.settings import Settings
from frontend.operations import Operations
from frontend.service import Service
from frontend.ui.battle_handlers import BattleHandlers
from frontend.ui.battle_page import BattlePage
from frontend.ui.conversation import Session
from frontend.ui.fleet_page import FleetPage
from frontend.ui.handlers import Handlers
from frontend.ui.markup import LATEX_DELIMITERS

HERE = Path(__file__).parent
EXAMPLES = (
    (HERE / "examples" / "four-shapes.png", "What do you see?"),
    (HERE / "examples" / "five-shapes.png", "How many shapes are there?"),
)

REFRESH_S = 5.0
MAX_STREAMS = 200
"""Answers that one process shows at a time; the readers of others wait, their jobs do not."""

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build_demo(service: Service, settings: Settings) -> gr.Blocks:
    """Build the page; `frontend.ui.app` serves it."""
    uploads = Path(get_upload_folder())
    battles = BattleHandlers(service, uploads)
    return build_page(Handlers(service, uploads), battles, Operations(settings), settings)


def build_page(
    handlers: Handlers, battles: BattleHandlers, operations: Operations, settings: Settings
) -> gr.Blocks:
    """Build the pages over handlers that take uploads from a folder of the caller's."""
    with gr.Blocks(
        title="Heliograph", fill_width=True, analytics_enabled=False, delete_cache=(3600, 24 * 3600)
    ) as demo:
        Navbar(visible=False)
        Page(demo, handlers, settings)
    with demo.route("Side by side", "/battle", show_in_navbar=False) as battle:
        BattlePage(battle, battles, settings)
    with demo.route("Fleet", "/fleet", show_in_navbar=False) as fleet:
        FleetPage(fleet, operations)
    demo.queue(api_open=False, default_concurrency_limit=MAX_STREAMS)
    built: gr.Blocks = demo
    return built


class Page:
    """The components, then the events."""

    def __init__(self, demo: gr.Blocks, handlers: Handlers, settings: Settings) -> None:
        self.session = gr.State(Session())
        gr.HTML(
            "<h1>Heliograph</h1><p>Send a picture, ask about it, and watch the answer arrive.</p>"
            '<a href="fleet">Fleet</a><a href="battle">Side by side</a>',
            elem_id="heading",
            padding=False,
        )
        with gr.Row(elem_id="page"):
            with gr.Column(scale=3, min_width=260, elem_id="side"):
                self._build_side(settings)
            with gr.Column(scale=7, min_width=300, elem_id="main"):
                self._build_chat()
        self._connect(demo, handlers)

    def _build_side(self, settings: Settings) -> None:
        self.model = gr.Dropdown([], label="Model", interactive=True, elem_id="model")
        self.notice = gr.HTML(elem_id="notice", padding=False)
        self.picture = gr.Image(
            label="Image",
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            height=200,
            buttons=[],
            placeholder="Drop or choose a picture\n"
            f"up to {settings.max_image_bytes / 2**20:.0f} MB",
            elem_id="picture",
        )
        self.message = gr.Textbox(
            label="Message",
            placeholder="Ask about the picture",
            lines=1,
            max_lines=8,
            scale=8,
            min_width=120,
            elem_id="message",
            render=False,
        )
        with gr.Column(elem_id="examples"):
            gr.Examples(
                [[str(path), question] for path, question in EXAMPLES],
                inputs=[self.picture, self.message],
                label="Examples",
                api_visibility="private",
            )
        with gr.Accordion("Parameters", open=False, elem_id="parameters"):
            self.parameters = [
                gr.Slider(0.0, 1.0, 0.2, step=0.1, label="Temperature", interactive=True),
                gr.Slider(0.05, 1.0, 0.7, step=0.05, label="Top-p", interactive=True),
                gr.Slider(64, 1024, 512, step=64, label="Max output tokens", interactive=True),
                gr.Slider(
                    0,
                    24,
                    0,
                    step=1,
                    label="Max input tiles",
                    info="Shared by the images of a turn; 0 leaves it to the model",
                    interactive=True,
                ),
                gr.Radio(
                    [("As it is", ""), *get_args(ImageProcessMode)],
                    value="",
                    label="Image process mode",
                    info="Default scales large images down; the others also change the shape",
                    interactive=True,
                ),
            ]

    def _build_chat(self) -> None:
        self.chat = gr.Chatbot(
            label="Chat",
            show_label=False,
            height=None,
            layout="bubble",
            latex_delimiters=LATEX_DELIMITERS,
            buttons=["copy"],
            feedback_options=None,
            placeholder="Choose an example, or send a picture and ask.",
            elem_id="chat",
        )
        self.line = gr.HTML(elem_id="line", padding=False)
        with gr.Row(elem_id="ask"):
            self.message.render()  # type: ignore[no-untyped-call]
            self.send = gr.Button("Send", variant="primary", scale=1, min_width=72)
            self.stop = gr.Button("Stop", scale=1, min_width=72, interactive=False)
        with gr.Row(elem_id="after"):
            self.regenerate, self.clear, self.upvote, self.downvote, self.flag = (
                gr.Button(name, size="sm", min_width=72, interactive=False, elem_id=name.lower())
                for name in ("Regenerate", "Clear", "Upvote", "Downvote", "Flag")
            )

    def _connect(self, demo: gr.Blocks, handlers: Handlers) -> None:
        buttons = [self.send, self.stop, self.regenerate, self.clear]
        buttons += [self.upvote, self.downvote, self.flag]
        inputs = [self.chat, self.message, self.picture, self.line]
        # Not preprocessed: opening the picture is the service's, which says what is wrong with it.
        asked = gr.on(
            [self.send.click, self.message.submit],
            handlers.send,
            [self.session, self.model, self.message, self.picture, *self.parameters],
            [*inputs, *buttons],
            preprocess=False,
            **QUIET,
        )
        again = self.regenerate.click(
            handlers.regenerate,
            [self.session, self.model, *self.parameters],
            [self.chat, self.line, *buttons],
            preprocess=False,
            **QUIET,
        )
        for event in (asked, again):
            event.then(
                handlers.stream,
                [self.session],
                [self.chat, self.line],
                concurrency_id="streams",
                **QUIET,
            ).then(handlers.settle, [self.session], buttons, **QUIET)
        self.stop.click(handlers.stop, None, None, queue=False, **QUIET)
        self.clear.click(handlers.clear, [self.session], [*inputs, *buttons], **QUIET)
        self.upvote.click(handlers.vote("upvote"), [self.session], [self.line, *buttons], **QUIET)
        self.downvote.click(
            handlers.vote("downvote"), [self.session], [self.line, *buttons], **QUIET
        )
        self.flag.click(handlers.vote("flag"), [self.session], [self.line, *buttons], **QUIET)
        self.picture.upload(
            handlers.check, [self.picture], [self.picture, self.line], preprocess=False, **QUIET
        )
        refresh: dict[str, Any] = {
            "fn": handlers.refresh,
            "inputs": [self.session, self.model],
            "outputs": [self.model, self.notice],
            "preprocess": False,
        }
        demo.load(**refresh, **QUIET)
        gr.Timer(REFRESH_S).tick(**refresh, **QUIET)
        demo.unload(handlers.leave)
