"""Whether a port can be listened on, said in one sentence when it cannot."""

from __future__ import annotations

import errno
import socket

from broker.errors import ConfigurationError


def check_free(host: str, port: int, setting: str) -> None:
    """Look whether a port is free, without listening: nobody shall find a door that is none.

    Raises:
        ConfigurationError: it is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise ConfigurationError(
                    f"HELIOGRAPH_HOST={host!r} is no address of this machine: use 127.0.0.1, "
                    "0.0.0.0 for all of them, or one of its own."
                ) from None
            raise ConfigurationError(
                f"Port {port} on {host} cannot be used ({error.strerror}). "
                f"Stop what listens there, or set {setting} to another port."
            ) from None
