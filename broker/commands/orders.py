"""`drain`, `pause`, `resume` and `cancel`: what an operator tells workers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from broker import cancellation, orders, queues
from broker.commands import done
from broker.connection import connect, redis_errors
from broker.settings import Settings

if TYPE_CHECKING:
    from broker.commands import Commands


def add(commands: Commands) -> None:
    """Add the commands."""
    parser = commands.add_parser("cancel", help="cancel a waiting or running job")
    parser.add_argument("job", help="its id, as the API tells it")
    parser.set_defaults(run=cancel)
    parser = commands.add_parser("drain", help="have a worker end when its answers have")
    parser.add_argument("worker", help="its id, see status")
    parser.set_defaults(run=drain)
    parser = commands.add_parser("pause", help="have a model's workers take no new requests")
    parser.add_argument("model")
    parser.set_defaults(run=pause)
    parser = commands.add_parser("resume", help="let a paused model's workers go on")
    parser.add_argument("model")
    parser.set_defaults(run=resume)


def cancel(settings: Settings, flags: argparse.Namespace) -> int:
    """Cancel a job by its id, with or without the API's prefix."""
    with redis_errors():
        known = cancellation.cancel(
            connect(settings.url), flags.job.removeprefix(queues.ANSWER_PREFIX)
        )
    return done(known, f"job {flags.job} is unknown here, or its record has expired")


def drain(settings: Settings, flags: argparse.Namespace) -> int:
    """Have a worker end when its running answers have."""
    with redis_errors():
        alive = orders.drain(connect(settings.url), flags.worker)
    return done(alive, f"no worker {flags.worker} is alive")


def pause(settings: Settings, flags: argparse.Namespace) -> int:
    """Have a model's workers take no new requests, which wait."""
    with redis_errors():
        known = orders.pause(connect(settings.url), flags.model)
    return done(known, f"model {flags.model} was never served here")


def resume(settings: Settings, flags: argparse.Namespace) -> int:
    """Let a model's workers take requests again."""
    with redis_errors():
        was_paused = orders.resume(connect(settings.url), flags.model)
    return done(was_paused, f"model {flags.model} was not paused")
