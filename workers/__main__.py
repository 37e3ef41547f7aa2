"""`python -m workers`: one worker process that serves one model from its queue.

The flags are those of the worker people already know; what is not given comes from the settings.
`python -m workers prompt` and `tiles` show what the model would be given, see `workers.commands`;
`python -m workers bridge` keeps a worker for each model of foreign workers, see `workers.bridge`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import socket
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

from broker import logs
from broker.connection import connect
from broker.errors import ConfigurationError
from broker.loading import uncollected
from broker.messages import WorkerInfo
from broker.settings import DISPATCH_METHODS, Settings
from broker.supervisor import BROKEN, Supervisor
from workers.engines import import_engine, load_engine
from workers.engines.base import EngineBroken, EngineOptions, UpstreamOptions
from workers.templates import TEMPLATES

DEMO_MODEL = Path(__file__).parent / "demo" / "model"
DEMO_NAME = "heliograph-demo"
DEFAULT_SLOTS = {"local": 16, "echo": 256, "remote": 64, "foreign": 5}
DRAIN_S = 3.0
UPSTREAMS = ("remote", "foreign")
COMMANDS = {
    "bridge": "workers.bridge",
    "prompt": "workers.commands.prompt",
    "tiles": "workers.commands.tiles",
}

log = logging.getLogger("workers")


def parse_flags(settings: Settings, argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; defaults come from `settings`."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument(
        "--model-path",
        default=settings.model_path,
        help="folder or hub name of a checkpoint, or 'demo' (default: %(default)s)",
    )
    parser.add_argument(
        "--model-name",
        default=settings.model_name,
        help="name to serve it under (default: by path)",
    )
    parser.add_argument(
        "--device", default=settings.device, help="auto, cpu, cuda, cuda:1 (default: %(default)s)"
    )
    parser.add_argument(
        "--engine",
        default=settings.engine,
        choices=sorted(DEFAULT_SLOTS),
        help="what computes the tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="weights",
    )
    parser.add_argument(
        "--compile",
        default=settings.compile,
        choices=["auto", "off", "now"],
        help="compile decoding in the background, never, or before serving (default: %(default)s)",
    )
    parser.add_argument("--load-8bit", action="store_true", help="keep the weights in 8 bits")
    parser.add_argument(
        "--limit-model-concurrency",
        type=int,
        metavar="SLOTS",
        help="requests that run at once, at each worker where they are foreign "
        "(default: local 16, echo 256, remote 64, foreign 5)",
    )
    parser.add_argument(
        "--conv-template",
        default="auto",
        choices=["auto", *TEMPLATES],
        metavar="NAME",
        help="conversation template: auto (the checkpoint's own, else by the model's name), or "
        + ", ".join(TEMPLATES),
    )
    parser.add_argument(
        "--upstream",
        default="",
        metavar="URL",
        help="with --engine remote: an OpenAI-compatible server that computes (vLLM, SGLang, "
        "another Heliograph); HELIOGRAPH_UPSTREAM_KEY is its API key",
    )
    parser.add_argument(
        "--dispatch-method",
        default=settings.dispatch_method,
        choices=DISPATCH_METHODS,
        help="with --engine foreign: which of its workers gets a request (default: %(default)s)",
    )
    parser.add_argument(
        "--upstream-model", default="", metavar="NAME", help="its name there (default: as here)"
    )
    parser.add_argument("--context-length", type=int, help="tokens a conversation may have at most")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that comes with a checkpoint of a family transformers does not know",
    )
    parser.add_argument(
        "--restart",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="start the worker again when it breaks (default: no)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=seconds,
        default=DRAIN_S,
        metavar="S",
        help="how long running requests may go on after SIGTERM before other workers take them "
        "over (default: %(default)s)",
    )
    parser.add_argument(
        "--pass-seconds",
        type=seconds,
        metavar="S",
        help="an engine that does not come back from one pass for so long hangs: the worker ends, "
        "and others take its requests over (default: 60, on a CPU 300; 0: never)",
    )
    return parser.parse_args(argv)


def seconds(text: str) -> float:
    """Read a length of time.

    Raises:
        ValueError: it is none.
    """
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def served_name(model_path: str) -> str:
    """Name for a checkpoint: last part of its path; `checkpoint-*` gets its parent's in front."""
    if model_path == "demo":
        return DEMO_NAME
    parts = model_path.partition("?")[0].rstrip("/").split("/")
    if parts[-1].startswith("checkpoint-") and len(parts) > 1:
        return f"{parts[-2]}_{parts[-1]}"
    return parts[-1]


def serve(settings: Settings, flags: argparse.Namespace) -> None:
    """Load the model, announce it and work until asked to stop.

    Raises:
        ConfigurationError: a flag does not fit the checkpoint or this machine.
        EngineBroken: this process can compute no more; its jobs are handed over.
    """
    from broker.outage import Outage
    from workers.control import listen
    from workers.last_lines import LastLines
    from workers.pulse import Pulse
    from workers.watchdog import Watchdog
    from workers.worker import BatchWorker

    model_path = str(DEMO_MODEL) if flags.model_path == "demo" else flags.model_path
    if flags.engine == "echo" and flags.model_path == "demo":
        model_path = "echo"
    if flags.engine in UPSTREAMS and not flags.model_name:
        raise ConfigurationError(
            f"--engine {flags.engine} needs --model-name, the name to serve it under."
        )
    name = flags.model_name or served_name("echo" if model_path == "echo" else flags.model_path)
    info = WorkerInfo(
        id=uuid.uuid4().hex[:8],
        model=name,
        engine=flags.engine,
        device=flags.device,
        host=socket.gethostname(),
        pid=os.getpid(),
        state="loading",
        started_s=time.time(),
    )
    last_lines = LastLines(info.id)
    logging.getLogger().addHandler(last_lines)
    log.info("worker %s serves %s with engine %s", info.id, name, flags.engine)
    _end_when_asked()
    outage = Outage()
    with Pulse(connect(settings.url), info, outage) as pulse:
        options = EngineOptions(
            model_path=model_path,
            model_name=name,
            engine=flags.engine,
            device=flags.device,
            dtype=flags.dtype,
            load_8bit=flags.load_8bit,
            slots=flags.limit_model_concurrency or DEFAULT_SLOTS[flags.engine],
            context_length=flags.context_length,
            max_image_pixels=settings.max_image_pixels,
            compile=flags.compile,
            compile_dir=str(settings.data_dir / "compiled"),
            conv_template=flags.conv_template,
            trust_remote_code=flags.trust_remote_code,
            upstream=_upstream(settings, flags),
        )
        with uncollected():
            import_engine(flags.engine)
        engine = load_engine(options, pulse.progress)
        worker = BatchWorker(
            settings.url, name, info.id, engine, flags.drain_seconds, last_lines, outage
        )
        listen(worker)
        pulse.attach(worker, Watchdog(worker, flags.pass_seconds))
        if not worker.trouble:
            log.info(
                "%s is ready on %s: %d slots of %d tokens",
                name,
                engine.device,
                engine.slots,
                engine.context_length,
            )
        worker.work()


def _end_when_asked() -> None:
    """Have a signal end the loading of a model in order; a worker that works sees to its own."""

    def end(number: int, _: object) -> None:
        log.info("got %s, the model is not loaded any further", signal.Signals(number).name)
        sys.exit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _upstream(settings: Settings, flags: argparse.Namespace) -> UpstreamOptions | None:
    if flags.engine not in UPSTREAMS:
        return None
    told = replace(settings, dispatch_method=flags.dispatch_method)
    return UpstreamOptions(told, flags.upstream, flags.upstream_model)


def main() -> None:
    """Run a worker or a command; a wrong setting ends it with one sentence."""
    if module := COMMANDS.get(sys.argv[1] if len(sys.argv) > 1 else ""):
        importlib.import_module(module).main(sys.argv[2:])
        return
    try:
        settings = Settings.from_environment()
        logs.set_up(settings)
        flags = parse_flags(settings)
        if flags.restart:
            command = [sys.executable, "-m", "workers", *sys.argv[1:], "--no-restart"]
            sys.exit(Supervisor("the worker", command).run())
        serve(settings, flags)
    except EngineBroken as error:
        log.critical("this worker cannot go on: %s", error)
        sys.exit(BROKEN)
    except ConfigurationError as error:
        sys.exit(f"heliograph worker: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
