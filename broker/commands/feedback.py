"""`feedback`: read votes and chats, one JSON object a line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from broker import exports, feedback, preferences
from broker.connection import connect, redis_errors
from broker.settings import Settings

if TYPE_CHECKING:
    from broker.commands import Commands

FORMATS: Final = {
    "jsonl": exports.everything,
    "llava": exports.llava,
    "dpo": preferences.pairs,
}


def add(commands: Commands) -> None:
    """Add the commands."""
    actions = commands.add_parser("feedback", help="read votes and chats").add_subparsers(
        dest="action", required=True
    )
    last = actions.add_parser("tail", help="the last votes, one JSON object a line")
    last.add_argument("-n", "--count", type=int, default=10, help="how many (default: 10)")
    last.set_defaults(run=tail)
    whole = actions.add_parser("export", help="chats and votes, one JSON object a line")
    whole.add_argument(
        "--format",
        choices=FORMATS,
        default="jsonl",
        help="jsonl: all fields of all chats and votes (default); llava: the lines of LLaVA's log "
        "files; dpo: pairs of a better and a worse answer",
    )
    whole.set_defaults(run=export)


def tail(settings: Settings, flags: argparse.Namespace) -> int:
    """Print the last votes."""
    with redis_errors():
        return _print(feedback.tail(connect(settings.url), flags.count))


def export(settings: Settings, flags: argparse.Namespace) -> int:
    """Print all chats and votes in a format."""
    with redis_errors():
        return _print(FORMATS[flags.format](connect(settings.url)))


def _print(rows: Iterable[Mapping[str, object]]) -> int:
    """Write rows in UTF-8 whatever the terminal's language is, until nobody reads any more."""
    try:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode(errors="replace")
            sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # as with `| head`; Python would complain at its end as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
