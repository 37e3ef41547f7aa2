"""Start a door: `python -m frontend api` (OpenAI-compatible HTTP) or `python -m frontend ui`."""

from __future__ import annotations

import argparse
import sys

from broker.errors import ConfigurationError
from broker.settings import Settings


def main() -> None:
    """Read settings from the environment and serve the chosen door until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m frontend", description=__doc__)
    parser.add_argument("door", choices=["api", "ui"], help="what to serve")
    door = parser.parse_args().door
    try:
        settings = Settings.from_environment()
        _serve_api(settings) if door == "api" else _serve_ui(settings)
    except ConfigurationError as error:
        sys.exit(str(error))


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
