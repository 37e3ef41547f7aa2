"""`python -m broker`: run the stack, look at it, give orders, read the feedback."""

from __future__ import annotations

import argparse
import sys

from broker import logs
from broker.commands import feedback, foreign, leaderboard, orders, quarantine, stack, status
from broker.errors import ConfigurationError, HeliographError
from broker.settings import Settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m broker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (stack, status, orders, foreign, quarantine, feedback, leaderboard):
        module.add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; errors are one sentence on standard error and status 1."""
    flags = _parser().parse_args(argv)
    try:
        settings = Settings.from_environment()
        logs.set_up(settings)
        status_code: int = flags.run(settings, flags)
    except (ConfigurationError, HeliographError) as error:
        print(f"heliograph: {error}", file=sys.stderr)
        return 1
    return status_code


if __name__ == "__main__":
    sys.exit(main())
