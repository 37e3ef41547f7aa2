"""Start a door: `python -m frontend api` (OpenAI-compatible HTTP) or `python -m frontend ui`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from broker.errors import ConfigurationError
from broker.settings import DISPATCH_METHODS, Settings


def main() -> None:
    """Read settings from the environment and serve the chosen door until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m frontend", description=__doc__)
    parser.add_argument("door", choices=["api", "ui"], help="what to serve")
    parser.add_argument(
        "--group",
        action="append",
        metavar="NAME=MODEL,MODEL",
        help="serve several models under one name; may be given again (default: HELIOGRAPH_GROUPS)",
    )
    parser.add_argument(
        "--dispatch-method",
        choices=DISPATCH_METHODS,
        help="which of a group's models gets a request (default: HELIOGRAPH_DISPATCH_METHOD)",
    )
    parser.add_argument(
        "--moderate",
        action="store_true",
        help="judge what is written on the page before it is sent (default: HELIOGRAPH_MODERATION)",
    )
    flags = parser.parse_args()
    try:
        settings = _with_flags(Settings.from_environment(), flags)
        _serve_api(settings) if flags.door == "api" else _serve_ui(settings)
    except ConfigurationError as error:
        sys.exit(str(error))


def _with_flags(settings: Settings, flags: argparse.Namespace) -> Settings:
    groups = " ".join(flags.group) if flags.group else settings.groups
    method = flags.dispatch_method or settings.dispatch_method
    moderation = "on" if flags.moderate else settings.moderation
    told = replace(settings, groups=groups, dispatch_method=method, moderation=moderation)
    told.check()
    return told


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
