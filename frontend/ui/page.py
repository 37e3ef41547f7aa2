"""The layout of the chat page and which event calls which handler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.navbar import Navbar

from broker.feedback import Vote
from broker.settings import Settings
from frontend.operations import Operations
from frontend.ui.battle_handlers import BattleHandlers
from frontend.ui.battle_page import BattlePage
from frontend.ui.camera import camera_button
from frontend.ui.chats_panel import FOLLOWING, KEEP_ADDRESS, QUIET, ChatsPanel
from frontend.ui.fleet_page import FleetPage
from frontend.ui.handlers import Handlers
from frontend.ui.history import History
from frontend.ui.language import SWITCH, label
from frontend.ui.markup import LATEX_DELIMITERS
from frontend.ui.message_box import COMPLETE, FILES, message_box
from frontend.ui.oversize import oversize_line
from frontend.ui.parameters import sampling_sliders
from frontend.ui.shown import Outputs, process_modes
from frontend.ui.sparing import describe_no_tabs, keep_signatures
from frontend.ui.terms import Terms, TermsPanel
from frontend.ui.vote_panel import VotePanel

HERE = Path(__file__).parent
EXAMPLES = (
    (HERE / "examples" / "four-shapes.png", "What do you see?"),
    (HERE / "examples" / "five-shapes.png", "How many shapes are there?"),
)

REFRESH_S = 5.0


def build_page(
    handlers: Handlers,
    history: History,
    battles: BattleHandlers,
    operations: Operations,
    settings: Settings,
    terms: Terms,
) -> gr.Blocks:
    """Build the pages over handlers that take uploads from a folder of the caller's."""
    with gr.Blocks(
        title="Heliograph", fill_width=True, analytics_enabled=False, delete_cache=(3600, 24 * 3600)
    ) as demo:
        Navbar(visible=False)
        Page(demo, handlers, history, settings)
        if settings.embed == "off":
            TermsPanel(demo, terms)
    with demo.route("Side by side", "/battle", show_in_navbar=False) as battle:
        BattlePage(battle, battles, settings)
    with demo.route("Fleet", "/fleet", show_in_navbar=False) as fleet:
        FleetPage(fleet, operations)
    demo.queue(api_open=False, default_concurrency_limit=None)  # threads bound the short events
    keep_signatures(demo.blocks.values())
    describe_no_tabs()
    built: gr.Blocks = demo
    return built


class Page:
    """The components, then the events."""

    def __init__(
        self, demo: gr.Blocks, handlers: Handlers, history: History, settings: Settings
    ) -> None:
        self.known: gr.State = gr.State([])
        # Kept by the browser, so that any process goes on with the chat.
        self.bookmark, self.resume, self.ready = (
            gr.Textbox("", visible="hidden", show_label=False, container=False) for _ in range(3)
        )
        gr.HTML(
            label(
                "<h1>Heliograph</h1>"
                "<p>Send a picture, ask about it, and watch the answer arrive.</p>"
                '<a href="fleet">Fleet</a><a href="battle">Side by side</a>'
            )
            + SWITCH,
            visible=settings.embed == "off",
            elem_id="heading",
            padding=False,
        )
        with gr.Row(elem_id="page"):
            with gr.Column(scale=3, min_width=260, elem_id="side") as self.side:
                self._build_side()
                self.chats = ChatsPanel()
            with gr.Column(scale=7, min_width=300, elem_id="main"):
                self._build_chat(demo, settings)
        self._connect(demo, handlers, history, settings)

    def _build_side(self) -> None:
        self.model = gr.Dropdown([], label=label("Model"), interactive=True, elem_id="model")
        self.notice = gr.HTML(elem_id="notice", padding=False)
        self.message = message_box()
        with gr.Column(elem_id="examples"):
            gr.Examples(
                [[{"text": question, "files": [str(path)]}] for path, question in EXAMPLES],
                inputs=[self.message],
                label=label("Examples"),
                api_visibility="private",
            )
        with gr.Accordion(label("Parameters"), open=False, elem_id="parameters"):
            self.parameters = [
                *sampling_sliders(0.2, 0.7, 4096, penalty=True),
                gr.Slider(
                    0,
                    24,
                    0,
                    step=1,
                    label=label("Max input tiles"),
                    info=label("Shared by the images of a turn; 0 leaves it to the model"),
                    interactive=True,
                ),
                gr.Radio(
                    process_modes(),
                    value="",
                    label=label("Image process mode"),
                    info=label(
                        "Default scales large images down; the others also change the shape"
                    ),
                    interactive=True,
                ),
                gr.Textbox(label=label("System prompt"), lines=2, max_lines=6, interactive=True),
            ]

    def _build_chat(self, demo: gr.Blocks, settings: Settings) -> None:
        self.chat = gr.Chatbot(
            label=label("Chat"),
            show_label=False,
            height=None,
            layout="bubble",
            latex_delimiters=LATEX_DELIMITERS,
            buttons=["copy"],
            feedback_options=None,
            editable="user",
            placeholder=label("Choose an example, or send a picture and ask."),
            elem_id="chat",
        )
        self.line = gr.HTML(elem_id="line", padding=False)
        with gr.Row(elem_id="ask") as self.ask:
            self.message.render()  # type: ignore[no-untyped-call]
            self.send = gr.Button(label("Send"), variant="primary", scale=1, min_width=72)
            self.stop = gr.Button(label("Stop"), scale=1, min_width=72, interactive=False)
        self.files = gr.Textbox("", visible="hidden", show_label=False, container=False)
        with gr.Row(elem_id="attach"):
            self.limits = gr.HTML(elem_id="limits", padding=False)
            camera_button(demo)
        oversize_line(demo, [self.send.click, self.message.submit], settings)
        with gr.Row(elem_id="after") as self.after:
            self.regenerate, self.clear, self.upvote, self.downvote, self.flag = (
                gr.Button(
                    label(name), size="sm", min_width=72, interactive=False, elem_id=name.lower()
                )
                for name in ("Regenerate", "Clear", "Upvote", "Downvote", "Flag")
            )
        self.why = VotePanel()

    def _connect(
        self, demo: gr.Blocks, handlers: Handlers, history: History, settings: Settings
    ) -> None:
        buttons = [self.send, self.stop, self.regenerate, self.clear]
        buttons += [self.upvote, self.downvote, self.flag]
        shown = [self.chat, self.line, self.bookmark, *buttons]
        tab = [self.bookmark, self.model]
        # Not preprocessed: opening the picture is the service's, which says what is wrong with it.
        raw: dict[str, Any] = {"preprocess": False, **QUIET}
        asked = gr.on(
            [self.send.click, self.message.submit],
            handlers.send,
            [*tab, self.message, *self.parameters],
            [self.message, *shown],
            **raw,
        )
        again = gr.on(
            [self.regenerate.click, self.chat.retry],
            handlers.regenerate,
            [*tab, *self.parameters],
            shown,
            **raw,
        )
        edited = self.chat.edit(handlers.edit, [*tab, *self.parameters], shown, **raw)
        for then in (asked.then, again.then, edited.then, self.resume.change):
            then(
                handlers.stream,
                [self.bookmark],
                [self.chat, self.line],
                concurrency_id="streams",  # with those of battles
                concurrency_limit=settings.concurrency_count,
                **QUIET,
            ).then(handlers.settle, [self.bookmark], [self.bookmark, *buttons], **QUIET)
        self.stop.click(handlers.stop, [self.bookmark], None, queue=False, **QUIET)
        self.chat.undo(handlers.undo, [self.bookmark], [self.message, *shown], **raw)
        self.clear.click(handlers.clear, None, [self.message, *shown], **raw)
        votes: tuple[tuple[gr.Button, Vote], ...] = (
            (self.upvote, "upvote"),
            (self.downvote, "downvote"),
            (self.flag, "flag"),
        )
        for button, kind in votes:
            voted = [self.line, self.bookmark, *buttons]
            button.click(handlers.votes.cast(kind), [self.bookmark], voted, **raw)
        self.why.connect(handlers.votes, self.bookmark, self.line)
        self.chats.connect(history, self.bookmark, self.line, shown)
        self.bookmark.change(None, [self.bookmark], None, js=KEEP_ADDRESS, **QUIET)
        self.message.change(None, [self.message], [self.files], js=FILES, **QUIET)
        for part in (self.files, self.model, self.bookmark, self.ready):
            part.change(
                handlers.attaching.look,
                [*tab, self.message],
                [self.limits],
                preprocess=False,
                **FOLLOWING,
            )
        models = [self.model, self.notice, self.known, self.ready]

        def tick(
            model: str | None, known: list[str], bookmark: str | None, request: gr.Request
        ) -> Outputs:
            found = handlers.models.refresh(model, known, request)
            return (*found, *handlers.look(bookmark, request))

        known = [self.model, self.known]
        live = [*models, *shown, self.resume]
        gr.Timer(REFRESH_S).tick(tick, [*known, self.bookmark], live, **raw)

        def load(model: str | None, known: list[str], request: gr.Request) -> Outputs:
            found = handlers.models.refresh(model, known, request)
            return (*found, history.search("", "", request), *handlers.open(request))

        parts = [self.resume, self.side, self.ask, self.after]
        loaded = [*models, self.chats.list, *self.parameters, *shown, *parts]
        demo.load(load, known, loaded, **raw)
        demo.load(None, None, None, js=COMPLETE, **QUIET)
        demo.unload(handlers.leave)
