"""A primary that dies under Sentinel: its replica takes over, and every answer ends rightly."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from broker.connection import connect
from tests.chaos.answers import Answers
from tests.chaos.cases import Case
from tests.chaos.test_redis import TEXT, answers
from tests.stack import Stack, free_port, until

pytestmark = pytest.mark.timeout(600)

BINARY = shutil.which("redis-server") or "redis-server"


class Watched:
    """A primary and a replica, and a Sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self.primary, self.replica, self._sentinel = free_port(), free_port(), free_port()
        self.url = f"sentinel://127.0.0.1:{free_port()},127.0.0.1:{self._sentinel}/main"
        self._start_server(self.primary)
        self._start_server(self.replica, "--replicaof", "127.0.0.1", str(self.primary))
        until(lambda: self._says(self.replica, "master_link_status", "up"), "the replica follows")
        self._start_sentinel()
        until(lambda: self._says(self._sentinel, "sentinel_masters", 1), "the sentinel watches")
        until(self._knows_the_replica, "the sentinel knows the replica", 20)

    def _start_server(self, port: int, *more: str) -> None:
        folder = self._folder / str(port)
        folder.mkdir(exist_ok=True)
        self._run(port, "--port", str(port), "--dir", str(folder), "--save", "", *more)

    def _start_sentinel(self) -> None:
        conf = self._folder / "sentinel.conf"
        conf.write_text(
            f"port {self._sentinel}\n"
            f"sentinel monitor main 127.0.0.1 {self.primary} 1\n"
            "sentinel down-after-milliseconds main 1000\n"
            "sentinel failover-timeout main 5000\n"
        )
        self._run(self._sentinel, str(conf), "--sentinel")

    def _run(self, port: int, *arguments: str) -> None:
        self._running[port] = subprocess.Popen([BINARY, *arguments], stdout=subprocess.DEVNULL)

    def _says(self, port: int, field: str, value: object) -> bool:
        client = connect(f"redis://127.0.0.1:{port}/0")
        try:
            return bool(client.info("all").get(field) == value)
        except redis.RedisError:
            return False
        finally:
            client.close()

    def _knows_the_replica(self) -> bool:
        client = connect(f"redis://127.0.0.1:{self._sentinel}/0")
        try:
            return len(client.execute_command("SENTINEL", "REPLICAS", "main")) == 1
        finally:
            client.close()

    def fail_over(self) -> float:
        """Kill the primary; return when. Its replica becomes the primary within seconds."""
        popen = self._running.pop(self.primary)
        popen.kill()
        popen.wait()
        return time.monotonic()

    def restore(self) -> None:
        """Bring the killed one back as the replica, once the other is primary."""
        until(lambda: self._says(self.replica, "role", "master"), "the replica took over", 20)
        self.primary, self.replica = self.replica, self.primary
        self._start_server(self.replica, "--replicaof", "127.0.0.1", str(self.primary))
        until(lambda: self._says(self.replica, "master_link_status", "up"), "the replica follows")

    def stop(self) -> None:
        for popen in self._running.values():
            popen.kill()
            popen.wait()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.stop()


def test_failover(watched: Watched, tmp_path: Path, case: Case, runs: int) -> None:
    """The first sentinel of the address never answers; the second one knows the primary."""
    stack = Stack(watched.url, tmp_path)
    try:
        stack.echo_worker("tokens_per_s=15")
        address = stack.api()
        for run in range(1 if runs <= 2 else runs):
            if run:
                watched.restore()
            streams = Answers(address, [TEXT] * 20)
            streams.until_tokens(10)
            assert not any(each.ended for each in streams.told)
            struck_s = watched.fail_over()
            until(lambda: answers(address), "new requests are answered", 15)
            told = streams.finish()
            case.note(told, TEXT, struck_s)
            assert [each.error for each in told if each.text != TEXT and not each.failed] == []
            assert all(each.over_s - struck_s < 15 for each in told)
        assert (case.duplicated, case.lost) == (0, 0), case.line()
        assert all(p.status is None and "Traceback" not in p.output for p in stack.processes)
    finally:
        stack.stop()
