"""A whole system as people run it: Redis with its file, supervised workers, two API processes.

There are two of each process, side 0 and side 1. Everything is on ports and data of its own.
Knows how to start each part and to start it again, not when.
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import psutil

from broker import leases, registry
from broker.connection import connect
from broker.queues import intermediate_key, queue_key
from tests.chaos.redis_server import RedisServer
from tests.stack import Process, Stack, free_port, until

SIDES = (0, 1)
ECHO, DEMO = "echo", "heliograph-demo"
TOKENS_PER_S = 20
READY_S = 600.0
"""A model that is compiled first takes minutes."""


class Api:
    """An API process on a port that it keeps."""

    role, parent_role = "api", "api's master"

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, for the first time or again."""
        port = str(self._port)
        self.process = self._stack.start("api", "frontend", "api", HELIOGRAPH_API_PORT=port)

    @property
    def pids(self) -> list[int]:
        """The master of gunicorn and the process that serves, as far as they live."""
        return family(self.process)

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.address}/v1/models", timeout=5).status_code < 500
        except httpx.TransportError:
            return False


class Worker:
    """A worker under its supervisor."""

    parent_role = "supervisor"

    def __init__(self, stack: Stack, role: str, *flags: str) -> None:
        self._stack, self.role, self._flags = stack, role, flags

    def start(self) -> None:
        """Start it, for the first time or again."""
        self.process = self._stack.start(self.role, "workers", "--restart", *self._flags)

    @property
    def pids(self) -> list[int]:
        """The supervisor and the worker, as far as they live."""
        return family(self.process)

    def is_ready(self) -> bool:
        """Whether the worker takes jobs."""
        ready = (each.pid for each in registry.workers(self._stack.redis) if each.state == "ready")
        return not set(self.pids[1:]).isdisjoint(ready)


def family(process: Process) -> list[int]:
    """Pids of a process and of its children, its own first; empty if it has ended."""
    if process.status is not None:
        return []
    try:
        return [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
    except psutil.NoSuchProcess:
        return []


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for its parent to notice."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Fleet:
    """All processes of one run."""

    def __init__(self, folder: Path, is_compiled: bool) -> None:
        """Start Redis only; see `start`.

        The demo model computes the same whatever is beside it and before it where passes are
        compiled, or in float32.
        """
        self.redis = RedisServer(folder / "redis")
        self.stack = Stack(self.redis.url, folder)
        self.stack.env["PYTHONPATH"] = os.getcwd()
        demo = ("--compile", "now") if is_compiled else ("--dtype", "float32")
        echo = ("--engine", "echo", "--model-path", f"echo?tokens_per_s={TOKENS_PER_S}")
        self.apis = [Api(self.stack) for _ in SIDES]
        self.workers = [Worker(self.stack, "worker", *echo) for _ in SIDES]
        self.demo_workers = [Worker(self.stack, "demo worker", *demo) for _ in SIDES]

    def start(self) -> None:
        """Start everything and wait until it serves."""
        for part in self.parts:
            part.start()
        for part in self.parts:
            self.wait_for(part)

    @property
    def parts(self) -> list[Api | Worker]:
        """Everything but Redis."""
        return [*self.workers, *self.demo_workers, *self.apis]

    @property
    def addresses(self) -> list[str]:
        """Where the API processes listen."""
        return [api.address for api in self.apis]

    def wait_for(self, part: Api | Worker) -> None:
        """Wait until a part serves."""
        until(part.is_ready, f"{part.role} serves\n{part.process.output}", READY_S)

    def pids(self) -> list[tuple[str, int]]:
        """Roles and pids of all processes that live."""
        found = [("redis", self.redis.pid)] if self.redis.pid else []
        for part in self.parts:
            parent, *children = part.pids or [0]
            found += [(part.parent_role, parent)] if parent else []
            found += [(part.role, child) for child in children]
        return found

    def tracebacks(self) -> list[str]:
        """Logs that have a traceback, with the processes' names."""
        logs = {process.log: process.output for process in self.stack.processes}
        return [f"{path}:\n{text}" for path, text in logs.items() if "Traceback" in text]

    def left_over(self) -> list[str]:
        """What of all requests is still there though nobody waits: empty when all is well."""
        client = connect(self.redis.url)
        found = [
            f"{name}: {count}"
            for model in (ECHO, DEMO)
            for name, count in (
                (f"queue of {model}", client.llen(queue_key(model))),
                (f"jobs popped for {model}", client.llen(intermediate_key(model))),
                (f"leases of {model}", len(leases.read(client, model))),
            )
            if count
        ]
        found += [
            f"slots taken at {each.id}: {each.running}"
            for each in registry.workers(client)
            if each.running
        ]
        client.close()
        return found

    def stop(self) -> None:
        """End everything."""
        self.stack.stop()
        self.redis.stop()
