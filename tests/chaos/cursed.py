"""Real worker processes with a curse: one method of theirs kills, hangs or fails at a condition."""

from __future__ import annotations

import sys

from tests.stack import Process, Stack, until

TOKENS = 150
OPTIONS = f"tokens_per_s=100&tokens={TOKENS}"
EXPECTED = " ".join(["word"] * TOKENS)
PASS_S = 2
NOTICED_S = 2.5
"""A hung pass is looked for once a second, and a pop that is under way may take another."""

CURSE = """
import os, signal, threading
from workers import __main__ as worker
from {module} import {name}

real = {name}.{method}
struck = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: struck.set())

def cursed(self, *given, **more):
    if {condition}:
        {effect}
    return real(self, *given, **more)

{name}.{method} = cursed
worker.main()
"""

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
HANG = "threading.Event().wait()"

DIES_BEFORE_A_CLAIM = CURSE.format(
    module="workers.intake",
    name="Intake",
    method="claim",
    condition="given[0]",
    effect=KILL,
)

THREADS = {
    "publisher": ("workers.publisher", "Publisher", "_publish"),
    "pulse": ("workers.janitor", "Janitor", "sweep"),
    "jobs": ("workers.intake", "Intake", "pop"),
}
"""A method that each thread of a worker calls again and again."""


def poisoned(effect: str) -> str:
    """Code of a worker on which a job that says "poison" has an effect."""
    return CURSE.format(
        module="workers.engines.echo",
        name="EchoEngine",
        method="prepare",
        condition="'poison' in given[0].messages[-1].text",
        effect=effect,
    )


def out_of_memory(module: str, name: str, method: str) -> str:
    """Code of a worker on which a method fails from SIGUSR1 on."""
    return CURSE.format(
        module=module,
        name=name,
        method=method,
        condition="struck.is_set()",
        effect="raise MemoryError",
    )


def start(stack: Stack, code: str, count: int = 1, options: str = OPTIONS) -> list[Process]:
    """Start worker processes that run `code`, which changes one thing and then serves."""
    flags = ["--engine", "echo", "--model-path", f"echo?{options}", "--pass-seconds", str(PASS_S)]
    command = [sys.executable, "-c", code, *flags]
    started = [Process("cursed", command, stack.env, stack.folder) for _ in range(count)]
    stack.processes += started
    for each in started:
        until(lambda each=each: stack.info(each), "the worker is ready", 60)  # type: ignore[misc]
    return started
