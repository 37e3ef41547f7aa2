"""`feedback`: read the votes, one JSON object a line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from broker import feedback
from broker.connection import connect, redis_errors
from broker.settings import Settings

if TYPE_CHECKING:
    from broker.commands import Commands


def add(commands: Commands) -> None:
    """Add the commands."""
    actions = commands.add_parser("feedback", help="read the votes").add_subparsers(
        dest="action", required=True
    )
    last = actions.add_parser("tail", help="the last votes, one JSON object a line")
    last.add_argument("-n", "--count", type=int, default=10, help="how many (default: 10)")
    last.set_defaults(run=tail)
    actions.add_parser("export", help="all votes, one JSON object a line").set_defaults(run=export)


def tail(settings: Settings, flags: argparse.Namespace) -> int:
    """Print the last votes."""
    with redis_errors():
        return _print(feedback.tail(connect(settings.url), flags.count))


def export(settings: Settings, _: argparse.Namespace) -> int:
    """Print all votes."""
    with redis_errors():
        return _print(feedback.export(connect(settings.url)))


def _print(rows: Iterable[Mapping[str, object]]) -> int:
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    return 0
