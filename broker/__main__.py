"""`python -m broker`: run the stack, look at it, read the feedback."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from broker import feedback, foreign, logs, orders, quarantine, queues, registry
from broker.addresses import AllowList, is_loopback, split_url
from broker.connection import connect, redis_errors
from broker.errors import ConfigurationError, HeliographError
from broker.foreign import ForeignWorker
from broker.messages import ModelInfo, WorkerInfo
from broker.ports import check_free
from broker.queues import Submitter
from broker.settings import Settings

PROCFILE = Path(__file__).parent.parent / "Procfile"


def up(settings: Settings) -> int:
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


def serve(settings: Settings) -> int:
    """Run the embedded server."""
    from broker.server import serve as serve_embedded

    return serve_embedded(settings)


_WENT = {"failed": "failed", "unavailable": "takes no jobs"}


def status(settings: Settings) -> int:
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
    heads = ("worker", "model", "state", "engine", "device", "host", "pid", "running", "tokens/s")
    table = Table(*heads, title="Workers")
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


def add_foreign(settings: Settings, url: str, heartbeats: bool) -> int:
    """Register a foreign worker by hand; the bridge asks it what it serves.

    Raises:
        InvalidRequest: the URL is none, or its address may not be called.
    """
    host, port = split_url(url)
    AllowList.parse(settings.worker_addresses).check(host, port, loopback=is_loopback(host))
    worker = ForeignWorker(address=url, heartbeats=heartbeats, registered_s=time.time())
    with redis_errors():
        foreign.register(connect(settings.url), worker)
    return 0


def remove_foreign(settings: Settings, url: str) -> int:
    """Withdraw a foreign worker; one that sends heartbeats comes back by itself."""
    with redis_errors():
        if foreign.withdraw(connect(settings.url), url):
            return 0
    print(f"heliograph: no foreign worker {url} is registered", file=sys.stderr)
    return 1


def drain(settings: Settings, worker_id: str) -> int:
    """Have a worker end when its running answers have."""
    with redis_errors():
        if orders.drain(connect(settings.url), worker_id):
            return 0
    print(f"heliograph: no worker {worker_id} is alive", file=sys.stderr)
    return 1


def pause(settings: Settings, model: str) -> int:
    """Have a model's workers take no new requests, which wait."""
    with redis_errors():
        if orders.pause(connect(settings.url), model):
            return 0
    print(f"heliograph: model {model} was never served here", file=sys.stderr)
    return 1


def resume(settings: Settings, model: str) -> int:
    """Let a model's workers take requests again."""
    with redis_errors():
        if orders.resume(connect(settings.url), model):
            return 0
    print(f"heliograph: model {model} was not paused", file=sys.stderr)
    return 1


def list_quarantine(settings: Settings) -> int:
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


def show_quarantined(settings: Settings, job_id: str) -> int:
    """Print the evidence about a job as JSON."""
    with redis_errors():
        evidence = quarantine.read(connect(settings.url), job_id)
    print(json.dumps(evidence.as_dict(), indent=2, ensure_ascii=False))
    return 0


def retry_quarantined(settings: Settings, job_id: str) -> int:
    """Submit a job's request anew and print its new id."""
    with redis_errors():
        client = connect(settings.url, retry=False)
        submitter = Submitter(client, max_queue_length=settings.max_queue_length)
        print(quarantine.retry(client, submitter, job_id))
    return 0


def drop_quarantined(settings: Settings, job_id: str) -> int:
    """Forget the evidence about a job."""
    with redis_errors():
        quarantine.drop(connect(settings.url), job_id)
    return 0


def cancel(settings: Settings, job_id: str) -> int:
    """Cancel a job by its id, with or without the API's prefix."""
    with redis_errors():
        if queues.cancel(connect(settings.url), job_id.removeprefix(queues.ANSWER_PREFIX)):
            return 0
    print(f"heliograph: job {job_id} is unknown here, or its record has expired", file=sys.stderr)
    return 1


def tail_feedback(settings: Settings, count: int) -> int:
    """Print the last votes, one JSON object a line."""
    with redis_errors():
        for row in feedback.tail(connect(settings.url), count):
            print(json.dumps(row, ensure_ascii=False))
    return 0


def export_feedback(settings: Settings) -> int:
    """Print all votes, one JSON object a line."""
    with redis_errors():
        for row in feedback.export(connect(settings.url)):
            print(json.dumps(row, ensure_ascii=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m broker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="run the whole stack of the Procfile")
    commands.add_parser("serve", help="run the embedded Valkey server")
    commands.add_parser("status", help="show live workers, slots, queues and tokens/s")
    drop = commands.add_parser("cancel", help="cancel a waiting or running job")
    drop.add_argument("job", help="its id, as the API tells it")
    strangers = commands.add_parser(
        "foreign", help="register HTTP workers of LLaVA, InternVL or FastChat by hand"
    ).add_subparsers(dest="action", required=True)
    add = strangers.add_parser("add", help="make one part of the fleet")
    add.add_argument("url", help="where it listens, e.g. http://127.0.0.1:21002")
    add.add_argument(
        "--heart-beat",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether it must send heartbeats to stay (default: yes)",
    )
    remove = strangers.add_parser("remove", help="withdraw one")
    remove.add_argument("url")
    draining = commands.add_parser("drain", help="have a worker end when its answers have")
    draining.add_argument("worker", help="its id, see status")
    pausing = commands.add_parser("pause", help="have a model's workers take no new requests")
    pausing.add_argument("model")
    resuming = commands.add_parser("resume", help="let a paused model's workers go on")
    resuming.add_argument("model")
    _add_quarantine(commands.add_parser("quarantine", help="jobs whose workers died"))
    votes = commands.add_parser("feedback", help="read the votes").add_subparsers(
        dest="action", required=True
    )
    tail = votes.add_parser("tail", help="the last votes, one JSON object a line")
    tail.add_argument("-n", "--count", type=int, default=10, help="how many (default: 10)")
    votes.add_parser("export", help="all votes, one JSON object a line")
    return parser


def _add_quarantine(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="those that were set aside")
    for action, what in (
        ("show", "the evidence about one, as JSON"),
        ("retry", "submit its request anew; prints the new id"),
        ("drop", "forget the evidence"),
    ):
        actions.add_parser(action, help=what).add_argument("job")


_QUARANTINE = {"show": show_quarantined, "retry": retry_quarantined, "drop": drop_quarantined}


def main(argv: list[str] | None = None) -> int:
    """Run one command; errors are one sentence on standard error and status 1."""
    flags = _parser().parse_args(argv)
    try:
        settings = Settings.from_environment()
        logs.set_up(settings)
        match flags.command:
            case "up":
                return up(settings)
            case "serve":
                return serve(settings)
            case "status":
                return status(settings)
            case "cancel":
                return cancel(settings, flags.job)
            case "foreign" if flags.action == "add":
                return add_foreign(settings, flags.url, flags.heart_beat)
            case "foreign":
                return remove_foreign(settings, flags.url)
            case "drain":
                return drain(settings, flags.worker)
            case "pause":
                return pause(settings, flags.model)
            case "resume":
                return resume(settings, flags.model)
            case "quarantine" if flags.action == "list":
                return list_quarantine(settings)
            case "quarantine":
                return _QUARANTINE[flags.action](settings, flags.job)
            case _ if flags.action == "tail":
                return tail_feedback(settings, flags.count)
            case _:
                return export_feedback(settings)
    except (ConfigurationError, HeliographError) as error:
        print(f"heliograph: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
