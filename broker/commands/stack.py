"""`up` and `serve`: run the whole stack of the Procfile, or the embedded server alone."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from broker.ports import check_free
from broker.settings import Settings

if TYPE_CHECKING:
    from broker.commands import Commands

PROCFILE = Path(__file__).parent.parent.parent / "Procfile"


def add(commands: Commands) -> None:
    """Add the commands."""
    commands.add_parser("up", help="run the whole stack of the Procfile").set_defaults(run=up)
    commands.add_parser("serve", help="run the embedded Valkey server").set_defaults(run=serve)


def up(settings: Settings, _: argparse.Namespace) -> int:
    """Check the ports, then become honcho with the Procfile and HELIOGRAPH_WORKERS workers."""
    if not settings.redis_url:
        check_free("127.0.0.1", settings.redis_port, "HELIOGRAPH_REDIS_PORT")
    check_free(settings.host, settings.api_port, "HELIOGRAPH_API_PORT")
    check_free(settings.host, settings.ui_port, "HELIOGRAPH_UI_PORT")
    scripts = str(Path(sys.executable).parent)
    os.environ["PATH"] = scripts + os.pathsep + os.environ.get("PATH", "")
    concurrency = f"redis=1,worker={settings.workers},api=1,ui=1,bridge=1"
    command = ["honcho", "-f", str(PROCFILE), "start", "-c", concurrency]
    os.execvp(command[0], command)


def serve(settings: Settings, _: argparse.Namespace) -> int:
    """Run the embedded server."""
    from broker.server import serve as serve_embedded

    return serve_embedded(settings)
