"""Start a door: `python -m frontend api` (OpenAI-compatible HTTP) or `python -m frontend ui`."""

from __future__ import annotations

import argparse
import os
import sys

from broker.errors import ConfigurationError
from broker.settings import DISPATCH_METHODS, MODEL_LIST_MODES, Settings


def main() -> None:
    """Read settings from environment and flags, and serve the chosen door until told to stop."""
    flags = vars(_parser().parse_args())
    door = flags.pop("door")
    told = {
        key: " ".join(value) if isinstance(value, list) else value
        for key, value in flags.items()
        if value is not None
    }
    try:
        settings = Settings.from_environment(os.environ | told)
        _serve_api(settings) if door == "api" else _serve_ui(settings)
    except ConfigurationError as error:
        sys.exit(str(error))


def _parser() -> argparse.ArgumentParser:
    """Flags are kept under the names of the settings that they stand for."""
    parser = argparse.ArgumentParser(prog="python -m frontend", description=__doc__)
    doors = parser.add_subparsers(dest="door", required=True, metavar="api | ui")
    api = doors.add_parser("api", help="serve programs")
    ui = doors.add_parser("ui", help="serve the chat page")
    for door, port in ((api, "HELIOGRAPH_API_PORT"), (ui, "HELIOGRAPH_UI_PORT")):
        _add(door, "--host", "HELIOGRAPH_HOST", "address to listen on", metavar="ADDRESS")
        _add(door, "--port", port, "port to listen on", metavar="PORT")
        _add(
            door,
            "--group",
            "HELIOGRAPH_GROUPS",
            "serve several models under one name; may be given again",
            action="append",
            metavar="NAME=MODEL,MODEL",
        )
        _add(
            door,
            "--dispatch-method",
            "HELIOGRAPH_DISPATCH_METHOD",
            "which of a group's models gets a request",
            choices=DISPATCH_METHODS,
        )
    _add(
        ui,
        "--model-list-mode",
        "HELIOGRAPH_MODEL_LIST_MODE",
        "follow what is served, or keep the models that the first visitor found",
        choices=MODEL_LIST_MODES,
    )
    _add(
        ui,
        "--concurrency-count",
        "HELIOGRAPH_CONCURRENCY_COUNT",
        "answers that this process shows at a time",
        metavar="N",
    )
    _add(
        ui,
        "--drawing-url",
        "HELIOGRAPH_DRAWING_URL",
        "address of a worker that makes the pictures that answers ask for",
        metavar="URL",
    )
    for flag, setting, text in (
        ("--embed", "HELIOGRAPH_EMBED", "be framed by other sites, without title and notes"),
        ("--share", "HELIOGRAPH_SHARE", "have a public address at gradio.live"),
        ("--moderate", "HELIOGRAPH_MODERATION", "judge what is written before it is sent"),
    ):
        _add(ui, flag, setting, text, action="store_const", const="on")
    return parser


def _add(door: argparse.ArgumentParser, flag: str, setting: str, text: str, **how: object) -> None:
    door.add_argument(flag, dest=setting, help=f"{text} (default: {setting})", **how)  # type: ignore[arg-type]


def _serve_api(settings: Settings) -> None:
    # Before anything else is imported: what is imported earlier would keep the blocking originals.
    from gevent import monkey

    monkey.patch_all()
    from frontend.api.server import serve

    serve(settings)


def _serve_ui(settings: Settings) -> None:
    from frontend.ui.app import main as serve

    serve(settings)


if __name__ == "__main__":
    main()
