"""Which addresses this system calls on somebody else's word: only those that are allowed.

A foreign worker names its own address, so each connection is checked when it is made: the name is
resolved, every address it stands for must be allowed, and the checked one is connected to. By
default only loopback is. Knows nothing of HTTP.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from broker.errors import ConfigurationError, InvalidRequest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PLAIN_URL = re.compile(r"https?://[^\s/?#@\\]+/?")
"""No user, path or query, not even an empty one: what is appended must become the path."""


class AddressRefused(InvalidRequest):
    """The address may not be called from here."""

    status = 403
    code = "address_refused"


@dataclass(frozen=True, slots=True)
class Rule:
    """Addresses of a network, or a host by name; with a port, only that one.

    A name stands for what its resolver says today, so it never allows what is this machine's or its
    link's alone, where services such as those of metadata listen; a network does.
    """

    host: str
    network: Network | None
    port: int | None

    def allows(self, host: str, address: Address, port: int) -> bool:
        """Whether this rule lets `host`, which stands for `address`, be called on `port`."""
        if self.port not in (None, port):
            return False
        if self.network is None:
            return host.lower() == self.host and not self._is_near(address)
        return address in self.network

    def _is_near(self, address: Address) -> bool:
        loopback = address.is_loopback and self.host != "localhost"
        return loopback or address.is_link_local or address.is_unspecified


@dataclass(frozen=True, slots=True)
class AllowList:
    """What may be called: loopback alone where `rules` is empty."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowList:
        """Read rules with commas or blanks between: `10.1.0.0/16`, `gpu1.lab:40000`, `[fd00::]/8`.

        Raises:
            ConfigurationError: one is neither a network nor a host name.
        """
        return cls(tuple(_parse(part) for part in text.replace(",", " ").split()))

    def check(self, host: str, port: int, *, loopback: bool = True) -> str:
        """Resolve `host` and return the address to connect to.

        Args:
            host: a name or an address.
            port: where it listens.
            loopback: whether loopback is allowed without a rule.

        Raises:
            AddressRefused: it cannot be resolved, or one of its addresses is not allowed.
        """
        found = _resolve(host, port)
        for address in found:
            implied = loopback and address.is_loopback
            if not implied and not any(rule.allows(host, address, port) for rule in self.rules):
                raise AddressRefused(
                    f"{host}:{port} is not an address that may be called from here. Allowed are "
                    "loopback, on the word of a program of this machine, and what "
                    "HELIOGRAPH_WORKER_ADDRESSES lists; a name that it lists does not stand for "
                    "loopback or link-local addresses."
                )
        return str(found[0])


def split_url(url: str) -> tuple[str, int]:
    """Host and port of a worker's URL.

    Raises:
        InvalidRequest: it is not `http://host:port` or `https://host:port`, or has more to it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if port is None:
            port = {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        host, port = None, 0
    if not host or not port or not url.isprintable() or not _PLAIN_URL.fullmatch(url):
        raise InvalidRequest(
            f"{url[:200]!r} is no worker address: it must be http://host:port or "
            "https://host:port.",
            param="worker_name",
        )
    return host, port


def is_loopback(host: str) -> bool:
    """Whether a peer's or a URL's host is this machine's loopback, by its address or as localhost.

    Any other name counts as another machine's, whatever it resolves to.
    """
    if host == "localhost":
        return True
    try:
        return plain(ipaddress.ip_address(host.partition("%")[0])).is_loopback
    except ValueError:
        return False


def _resolve(host: str, port: int) -> Sequence[Address]:
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise AddressRefused(f"The host name {host!r} cannot be resolved.") from None
    return [plain(ipaddress.ip_address(str(info[4][0]).partition("%")[0])) for info in infos]


def plain(address: Address) -> Address:
    """Take an IPv4 address out of its IPv6 form."""
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _parse(text: str) -> Rule:
    host, port = text, None
    head, colon, tail = text.rpartition(":")
    if colon and tail.isdigit() and (":" not in head or head.endswith("]")):
        host, port = head, int(tail)
    host = host.lower()
    bare = host.replace("[", "").replace("]", "")
    try:
        return Rule(host, ipaddress.ip_network(bare), port)
    except ValueError:
        pass
    if not all(part.replace("-", "").isalnum() for part in host.split(".")) or "/" in host:
        raise ConfigurationError(
            f"HELIOGRAPH_WORKER_ADDRESSES: {text!r} is neither a network such as 10.1.0.0/16 nor "
            "a host such as gpu1.lab:40000."
        )
    return Rule(host, None, port)
