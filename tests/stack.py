"""Real processes for the tests: a Redis of their own, workers, the API and the chat page."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.exceptions import RedisError

from broker import registry
from broker.connection import connect
from broker.messages import WorkerInfo
from broker.server import command
from broker.settings import Settings

T = TypeVar("T")
_tick = threading.Event()


def until(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """Wait for a condition to hold and return its value; fail with `what` when it does not."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        _tick.wait(0.02)
    return value


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A process of the product with its output in a file."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], folder: Path) -> None:
        self.log = folder / f"{name}-{free_port()}.log"
        with self.log.open("wb") as output:
            self._popen = subprocess.Popen(
                command, env=env, cwd=folder, stdout=output, stderr=subprocess.STDOUT
            )
        self.pid = self._popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def status(self) -> int | None:
        """Exit status, None while it runs."""
        return self._popen.poll()

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self, timeout_s: float = 15.0) -> int:
        return self._popen.wait(timeout_s)

    def ask_to_end(self) -> None:
        """Have it end in order; a process that is stopped (SIGSTOP) goes on for that."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGCONT)
            self._popen.terminate()

    def make_end(self) -> None:
        """Wait for the end of a process that was asked to, and kill it when it takes long."""
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(5)

    def stop(self) -> None:
        """Ask it to end, then make it."""
        self.ask_to_end()
        self.make_end()


class Stack:
    """The processes of one test or module, on ports and data of their own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.redis: redis.Redis = connect(url)
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")
        }
        self.env |= {"REDIS_URL": url, "HELIOGRAPH_DATA_DIR": str(folder / "data")}
        self.env["HELIOGRAPH_COMPILE"] = "off"
        self.processes: list[Process] = []

    def start(self, name: str, *command: str, **env: str) -> Process:
        """Start `python -m <command>`."""
        process = Process(name, [sys.executable, "-m", *command], self.env | env, self.folder)
        self.processes.append(process)
        return process

    def settings(self, **env: str) -> Settings:
        return Settings.from_environment({"REDIS_URL": self.url, **env})

    def worker(self, *flags: str, wait: bool = True, **env: str) -> Process:
        """Start a worker process and wait until it is ready."""
        process = self.start("worker", "workers", *flags, **env)
        if wait:
            until(lambda: self.info(process), f"worker is ready\n{process.output}", 90)
        return process

    def echo_worker(self, options: str = "", **flags: str) -> Process:
        """A worker with the echo engine under the name echo, e.g. "tokens_per_s=50"."""
        path = f"echo?{options}" if options else "echo"
        more = [part for key, value in flags.items() for part in (f"--{key}", value)]
        return self.worker("--engine", "echo", "--model-path", path, *more)

    def info(self, process: Process) -> WorkerInfo | None:
        """What a worker says of itself, once it is ready."""
        assert process.status is None, f"worker ended:\n{process.output}"
        for info in registry.workers(self.redis):
            if info.pid == process.pid and info.state == "ready":
                return info
        return None

    def waiting(self) -> str:
        """Workers, the length of each queue, and how many jobs are in each state."""
        try:
            workers = [
                f"{each.id} {each.state} {each.running}" for each in registry.workers(self.redis)
            ]
            raw: Any = self.redis.scan_iter(match="rq:queue:*", count=1000, _type="list")
            queues = {name.decode(): self.redis.llen(name) for name in raw}
            raw = self.redis.scan_iter(match="helio:job:*", count=1000, _type="hash")
            states = Counter(str(self.redis.hget(name, "state")) for name in raw)
        except RedisError as error:
            return repr(error)
        return f"workers {workers}\nqueues {queues}\njobs {dict(states)}"

    def api(self, *flags: str, **env: str) -> str:
        """Start the API and return its address, e.g. http://127.0.0.1:4711."""
        return self._serve("api", "HELIOGRAPH_API_PORT", flags, env)

    def ui(self, *flags: str, **env: str) -> str:
        """Start the chat page and return its address."""
        return self._serve("ui", "HELIOGRAPH_UI_PORT", flags, env)

    def _serve(self, door: str, setting: str, flags: tuple[str, ...], env: dict[str, str]) -> str:
        port = free_port()
        process = self.start(door, "frontend", door, *flags, **{setting: str(port)}, **env)

        def listens() -> bool:
            assert process.status is None, f"{door} ended:\n{process.output}"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(listens, f"{door} listens", 60)
        return f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.ask_to_end()
        for process in self.processes:
            process.make_end()
        self.redis.close()


def start_valkey(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start an embedded Valkey with data in `folder` and wait until it answers."""
    popen = subprocess.Popen(command(port, folder))
    until_answers(popen, f"redis://127.0.0.1:{port}")
    return popen


def until_answers(popen: subprocess.Popen[bytes], url: str) -> None:
    """Wait for a server that was just started."""
    with connect(url) as client:

        def answers() -> bool:
            assert popen.poll() is None, "it ended"
            try:
                return bool(client.ping())
            except redis.RedisError:  # or it loads its data
                return False

        until(answers, f"{url} answers")


@contextmanager
def embedded_valkey(folder: Path, port: int | None = None) -> Iterator[str]:
    """An embedded Valkey with data in `folder`; yields its URL."""
    port = port or free_port()
    popen = start_valkey(port, folder / "valkey")
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        popen.terminate()
        popen.wait(10)


@contextmanager
def own_stack(folder: Path) -> Iterator[Stack]:
    """A stack over an embedded Valkey of its own."""
    with embedded_valkey(folder) as url:
        made = Stack(url, folder)
        try:
            yield made
        finally:
            made.stop()


@contextmanager
def real_redis(folder: Path) -> Iterator[str]:
    """A `redis-server` of the machine; yields its URL."""
    port = free_port()
    binary = shutil.which("redis-server")
    assert binary is not None
    folder.mkdir(parents=True, exist_ok=True)
    popen = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        until_answers(popen, f"redis://127.0.0.1:{port}")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        popen.terminate()
        popen.wait(10)
