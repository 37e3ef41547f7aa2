"""Whose request it is that comes through proxies: only those that are trusted are believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from broker.addresses import Network, plain
from broker.errors import ConfigurationError


def parse_networks(text: str, setting: str) -> tuple[Network, ...]:
    """Read addresses and networks with commas or blanks between: `127.0.0.1, 10.1.0.0/16`.

    Raises:
        ConfigurationError: one is neither; `setting` is the name to say.
    """
    try:
        return tuple(ipaddress.ip_network(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ConfigurationError(
            f"{setting}={text!r}: {error}. Write addresses and networks such as 127.0.0.1 or "
            "10.1.0.0/16, with blanks between."
        ) from None


def behind(peer: str, forwarded_for: str, proxies: Sequence[Network]) -> str:
    """Whose request it is that came from `peer`; empty if that is no address.

    Each proxy adds the address that it was called from at the end of `X-Forwarded-For`. What stands
    before an address that is not one of `proxies` is that stranger's word, and not taken.
    """
    found = ""
    for text in (peer, *reversed(forwarded_for.split(","))):
        try:
            address = plain(ipaddress.ip_address(text.strip()))
        except ValueError:
            break
        found = str(address)
        if not any(address in network for network in proxies):
            break
    return found
