"""`status`: what is alive, as tables, and what is not, with why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from broker import foreign, orders, registry
from broker.connection import connect, redis_errors
from broker.foreign import ForeignWorker
from broker.messages import ModelInfo, WorkerInfo
from broker.settings import Settings

if TYPE_CHECKING:
    from broker.commands import Commands

_WENT = {"failed": "failed", "unavailable": "takes no jobs"}


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("status", help="show live workers, slots, queues and tokens/s")
    parser.set_defaults(run=status)


def status(settings: Settings, _: argparse.Namespace) -> int:
    """Print live workers and models as two tables, and workers that failed with their reason."""
    client = connect(settings.url)
    with redis_errors():
        models, workers = registry.models(client), registry.workers(client)
        down, strangers = registry.down(client), foreign.workers(client)
        paused = orders.paused(client)
    console = Console()
    for info in down:
        line = f"Worker {info.id} of {info.model} on {info.host} {_WENT[info.state]}: {info.reason}"
        console.print(line, markup=False, soft_wrap=True)
    for model in sorted(paused):
        line = f"Model {model} is paused until: python -m broker resume {model}"
        console.print(line, markup=False, soft_wrap=True)
    if not workers:
        console.print("No worker is alive. Start one: python -m workers")
    else:
        console.print(_model_table(models))
        console.print(_worker_table(workers))
    if strangers:
        console.print(_foreign_table(strangers))
    return 0 if workers else 1


def _model_table(models: list[ModelInfo]) -> Table:
    table = Table("model", "workers", "slots", "running", "queue", "tokens/s", title="Models")
    for model in models:
        workers = f"{model.ready}/{model.workers} ready"
        cells = (model.slots, model.running, model.queue_length, f"{model.speed:.1f}")
        table.add_row(model.name, workers, *map(str, cells))
    return table


def _worker_table(workers: list[WorkerInfo]) -> Table:
    heads = ("model", "state", "engine", "device", "host", "pid", "running", "tokens/s")
    name = Column("worker", min_width=8)  # whole on any terminal: `drain` wants it
    rest = (Column(head, overflow="fold") for head in heads)
    table = Table(name, *rest, title="Workers", padding=0)
    for info in workers:
        state = f"loading {info.progress} %" if info.state == "loading" else info.state
        slots = f"{info.running}/{info.slots}"
        cells = (info.engine, info.device, info.host, info.pid, slots, f"{info.speed:.1f}")
        table.add_row(info.id, info.model, state, *map(str, cells))
    return table


def _foreign_table(workers: list[ForeignWorker]) -> Table:
    table = Table("address", "models", "heartbeats", "queue", title="Foreign workers")
    for worker in workers:
        models = ", ".join(worker.models) or "not asked yet"
        heartbeats = "yes" if worker.heartbeats else "no"
        table.add_row(worker.address, models, heartbeats, str(worker.queue_length))
    return table
