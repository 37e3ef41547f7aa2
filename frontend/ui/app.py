"""Serves the chat page: one process, one port, until it is told to stop."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from broker import logs
from broker.connection import connect
from broker.loading import uncollected
from broker.ports import check_free
from broker.settings import Settings
from frontend.service import Service

if TYPE_CHECKING:
    import gradio as gr

HERE = Path(__file__).parent
SHORT_EVENTS = 56
"""Threads beside those of the answers that are shown, each of which holds one."""

KEPT_TABS = 2_000
"""Of tabs that were left Gradio keeps up to 0.1 MB each, until so many others were used later. An
open one asks every few seconds; should it be forgotten, it is told all models once more."""

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the port is taken.
    """
    logs.set_up(settings)
    check_free(settings.host, settings.ui_port, "HELIOGRAPH_UI_PORT")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    uploads = _empty_folder(settings)
    set_up_gradio(settings, uploads)
    stop_serving = _launch(settings, uploads)
    print(
        f"Chat page: http://{_shown(settings.host)}:{settings.ui_port}/   "
        f"API: http://{_shown(settings.host)}:{settings.api_port}/v1",
        flush=True,
    )
    stop.wait()
    stop_serving()


def set_up_gradio(settings: Settings, uploads: Path) -> None:
    """Say what Gradio has no parameter for, before it is imported; it keeps files in `uploads`."""
    # uvicorn's: whose word on client and scheme (X-Forwarded-For, -Proto) it takes.
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(settings.trusted_proxies.replace(",", " ").split())
    os.environ["NO_PROXY"] = "*"  # Gradio asks itself whether it is up, and nobody else anything
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # At the end of each event it would sum up the last 10,000, for a page that is not served.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(sys.maxsize)
    # At each update it looks for this on the disk, twice; nothing here draws with it.
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _launch(settings: Settings, uploads: Path) -> Callable[[], None]:
    """Serve in the background; return what ends it."""
    with uncollected():
        from starlette.middleware import Middleware

        from frontend.moderation.gate import Gate
        from frontend.operations import Operations
        from frontend.ui.battle_handlers import BattleHandlers
        from frontend.ui.drawings import drawing_route
        from frontend.ui.fleet_login import login_routes
        from frontend.ui.grounding import overlay_route
        from frontend.ui.handlers import Handlers
        from frontend.ui.history import History
        from frontend.ui.judge import Judge
        from frontend.ui.language import CATALOGUES, CHOICE
        from frontend.ui.page import build_page
        from frontend.ui.sockets import StreamSockets
        from frontend.ui.terms import Terms
        from frontend.ui.tunnel import share
        from frontend.ui.uploads import fetch_nothing
        from frontend.ui.web import (
            PAGES,
            BodyLimit,
            ContentPolicy,
            FirstScript,
            OwnerCookie,
            chat_route,
            picture_route,
        )

    fetch_nothing()
    service, operations = Service(settings), Operations(settings)
    gate = None
    if settings.moderation == "on":
        gate = Gate.from_settings(connect(settings.url), settings)
    terms = Terms.load(settings)
    judge = Judge(service.pictures, terms, gate)
    demo = build_page(
        Handlers(service, uploads, judge),
        History(service.chats, service.jobs),
        BattleHandlers(service, uploads, judge),
        operations,
        settings,
        terms,
    )
    demo.launch(
        server_name=f"[{settings.host}]" if ":" in settings.host else settings.host,
        server_port=settings.ui_port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        show_error=False,
        state_session_capacity=KEPT_TABS,
        max_threads=settings.concurrency_count + SHORT_EVENTS,
        # Larger pictures than are accepted are refused by a sentence of ours, up to this.
        max_file_size=max(settings.max_body_bytes, settings.max_image_bytes),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        theme=_theme(),
        css_paths=[HERE / name for name in ("style.css", "battle.css", "code.css")],
        head_paths=[HERE / "labels.html"],
        i18n=CATALOGUES,
        app_kwargs={
            "openapi_url": None,
            "routes": [
                picture_route(service.pictures),
                overlay_route(service.pictures),
                drawing_route(service.drawings),
                chat_route(service.chats),
                *login_routes(operations),
                CHOICE,
            ],
            "middleware": [
                Middleware(StreamSockets),
                Middleware(ContentPolicy, framers=_framers(settings)),
                Middleware(OwnerCookie),
                Middleware(FirstScript, script=(HERE / "language.html").read_text()),
                Middleware(FirstScript, script=(HERE / "stream.html").read_text(), paths=PAGES),
                Middleware(
                    BodyLimit,
                    max_bytes=settings.max_body_bytes,
                    max_upload_bytes=settings.max_body_bytes
                    + settings.max_images * settings.max_image_bytes,
                ),
            ],
        },
    )
    if settings.share == "on":
        # The address may take a minute, or the word that there is none.
        threading.Thread(target=share, args=(demo,), daemon=True).start()

    def stop_serving() -> None:
        # Open tabs would hold the server for seconds; that it leaves them is no error.
        logging.getLogger("uvicorn.error").disabled = True
        demo.server.force_exit = True
        demo.close(verbose=False)

    return stop_serving


def _framers(settings: Settings) -> str:
    """Which sites may show the chat page in a frame."""
    return (settings.embed_origins or "*") if settings.embed == "on" else ""


def _empty_folder(settings: Settings) -> Path:
    """Where uploads lie until they are in Redis; a process that was killed left its own here."""
    folder = settings.data_dir.absolute() / "uploads" / str(settings.ui_port)
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _theme() -> gr.themes.Base:
    """System fonts (nothing is fetched), sunlight on slate."""
    import gradio as gr

    theme = gr.themes.Default(
        primary_hue="amber",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size="md",
    )
    return theme.set(
        body_text_color_subdued="*neutral_500",  # its own grey has a contrast of 2.6 to white
        link_text_color_dark="*secondary_400",
        button_primary_background_fill="*primary_400",
        button_primary_background_fill_hover="*primary_300",
        button_primary_text_color="#1c1917",
        button_primary_background_fill_dark="*primary_400",
        button_primary_background_fill_hover_dark="*primary_300",
        button_primary_text_color_dark="#1c1917",
        error_text_color="#b91c1c",
        error_text_color_dark="#fca5a5",
    )


def _shown(host: str) -> str:
    """The host as one types it into a browser on this machine."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return everywhere.get(host, f"[{host}]" if ":" in host else host)
