"""`quarantine`: look at jobs that were set aside because their workers died, and decide."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from broker import quarantine
from broker.connection import connect, redis_errors
from broker.settings import Settings
from broker.submission import Submitter

if TYPE_CHECKING:
    from broker.commands import Commands


def add(commands: Commands) -> None:
    """Add the commands."""
    actions = commands.add_parser("quarantine", help="jobs whose workers died").add_subparsers(
        dest="action", required=True
    )
    actions.add_parser("list", help="those that were set aside").set_defaults(run=show_all)
    for action, run, what in (
        ("show", show, "the evidence about one, as JSON"),
        ("retry", retry, "submit its request anew; prints the new id"),
        ("drop", drop, "forget the evidence"),
    ):
        parser = actions.add_parser(action, help=what)
        parser.add_argument("job")
        parser.set_defaults(run=run)


def show_all(settings: Settings, _: argparse.Namespace) -> int:
    """Print the jobs that were set aside."""
    with redis_errors():
        found = quarantine.read_all(connect(settings.url))
    table = Table("job", "model", "since", "deaths", "tokens told", "workers", title="Quarantine")
    for each in found:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.since_s))
        workers = " ".join(each.workers)
        table.add_row(each.job_id, each.model, since, str(each.deaths), str(each.tokens), workers)
    Console().print(table if found else "No job is set aside.")
    return 0


def show(settings: Settings, flags: argparse.Namespace) -> int:
    """Print the evidence about a job as JSON."""
    with redis_errors():
        evidence = quarantine.read(connect(settings.url), flags.job)
    print(json.dumps(evidence.as_dict(), indent=2, ensure_ascii=False))
    return 0


def retry(settings: Settings, flags: argparse.Namespace) -> int:
    """Submit a job's request anew and print its new id."""
    with redis_errors():
        client = connect(settings.url, retry=False)
        submitter = Submitter(client, max_queue_length=settings.max_queue_length)
        print(quarantine.retry(client, submitter, flags.job))
    return 0


def drop(settings: Settings, flags: argparse.Namespace) -> int:
    """Forget the evidence about a job."""
    with redis_errors():
        quarantine.drop(connect(settings.url), flags.job)
    return 0
