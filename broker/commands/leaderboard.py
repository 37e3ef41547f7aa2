"""`leaderboard`: how models compare by the votes on pairs of their answers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from broker.battles import Tally
from broker.connection import connect, redis_errors
from broker.settings import Settings

if TYPE_CHECKING:
    from broker.commands import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("leaderboard", help="rate models by votes on pairs of answers")
    parser.set_defaults(run=leaderboard)


def leaderboard(settings: Settings, _: argparse.Namespace) -> int:
    """Print a table for each group of models that were compared."""
    from broker.strengths import standings  # numpy is not for every command

    with redis_errors():
        rows = standings(Tally().read(connect(settings.url)))
    console = Console()
    if not rows:
        console.print("No two answers have been compared yet.")
    for group in sorted({row.group for row in rows}):
        table = Table("rank", "model", "rating", "95 %", "votes", "won", "lost", "ties", "bothbad")
        for row in rows:
            if row.group == group:
                interval = f"{row.low:.0f} to {row.high:.0f}"
                counts = (row.votes, row.won, row.lost, row.ties, row.bothbad)
                cells = (f"{row.rating:.0f}", interval, *map(str, counts))
                table.add_row(str(row.rank), row.model, *cells)
        console.print(table)
    return 0
