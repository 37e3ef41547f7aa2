"""`foreign`: register HTTP workers of LLaVA, InternVL or FastChat by hand."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from broker import foreign
from broker.addresses import AllowList, is_loopback, split_url
from broker.commands import done
from broker.connection import connect, redis_errors
from broker.foreign import ForeignWorker
from broker.settings import Settings

if TYPE_CHECKING:
    from broker.commands import Commands


def add(commands: Commands) -> None:
    """Add the commands."""
    actions = commands.add_parser(
        "foreign", help="register HTTP workers of LLaVA, InternVL or FastChat by hand"
    ).add_subparsers(dest="action", required=True)
    adding = actions.add_parser("add", help="make one part of the fleet")
    adding.add_argument("url", help="where it listens, e.g. http://127.0.0.1:21002")
    adding.add_argument(
        "--heart-beat",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether it must send heartbeats to stay (default: yes)",
    )
    adding.set_defaults(run=add_worker)
    removing = actions.add_parser("remove", help="withdraw one")
    removing.add_argument("url")
    removing.set_defaults(run=remove_worker)


def add_worker(settings: Settings, flags: argparse.Namespace) -> int:
    """Register a foreign worker by hand; the bridge asks it what it serves.

    Raises:
        InvalidRequest: the URL is none, or its address may not be called.
    """
    host, port = split_url(flags.url)
    AllowList.parse(settings.worker_addresses).check(host, port, loopback=is_loopback(host))
    worker = ForeignWorker(address=flags.url, heartbeats=flags.heart_beat, registered_s=time.time())
    with redis_errors():
        foreign.register(connect(settings.url), worker)
    return 0


def remove_worker(settings: Settings, flags: argparse.Namespace) -> int:
    """Withdraw a foreign worker; one that sends heartbeats comes back by itself."""
    with redis_errors():
        known = foreign.withdraw(connect(settings.url), flags.url)
    return done(known, f"no foreign worker {flags.url} is registered")
