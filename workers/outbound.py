"""HTTP to addresses that somebody else named: each connection goes to an address that is allowed.

The name is resolved and checked when a connection is made, and the checked address is the one that
is connected to, so a name that stands for something else a moment later leads nowhere. Connections
are not kept, proxies of the environment are not used, redirects are errors, replies are bounded.
TLS verifies the name as ever. Knows nothing of what is said over the connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import httpcore2
import httpx2

from broker.addresses import AddressRefused, AllowList, is_loopback
from broker.errors import UpstreamFailed
from workers.reply import parse

CONNECT_S: Final = 3.0
MAX_LOOKUPS: Final = 32
"""Names that are resolved at a time: one that its server does not resolve blocks a thread."""
MAX_REPLY: Final = 2**20
"""Bytes of a reply that is read as a whole."""


class AllowedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to allowed addresses only, by TCP only."""

    def __init__(self, allowed: AllowList) -> None:
        self._allowed = allowed
        self._network = httpcore2.AnyIOBackend()
        # Not the event loop's own threads, which others wait for.
        self._lookups = ThreadPoolExecutor(MAX_LOOKUPS, "lookup")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve, check and connect.

        Raises:
            AddressRefused: the name cannot be resolved, or stands for an address that is not
                allowed.
        """
        try:
            # A name that comes to stand for loopback is no program of this machine's word.
            check = partial(self._allowed.check, host, port, loopback=is_loopback(host))
            checking = asyncio.get_running_loop().run_in_executor(self._lookups, check)
            address = await asyncio.wait_for(checking, timeout)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"{host} was not resolved in time") from error
        return await self._network.connect_tcp(
            address, port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Refuse.

        Raises:
            AddressRefused: always.
        """
        raise AddressRefused("A socket in the file system may not be called from here.")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class _Transport(httpx2.AsyncHTTPTransport):
    """httpx2's own transport over a pool that connects by `AllowedBackend`."""

    def __init__(self, allowed: AllowList) -> None:
        # The parent's pool would connect anywhere, so it is never made.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(trust_env=False),
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=AllowedBackend(allowed),
        )


def open_client(allowed: AllowList, silence_s: float) -> httpx2.AsyncClient:
    """Make a client that connects to what is allowed; `silence_s` may pass between two bytes."""
    return httpx2.AsyncClient(
        transport=_Transport(allowed),
        timeout=httpx2.Timeout(silence_s, connect=CONNECT_S),
        headers={"Accept-Encoding": "identity"},  # nothing to unpack that grows without bounds
        follow_redirects=False,
        trust_env=False,
    )


async def ask(
    client: httpx2.AsyncClient, url: str, body: object, timeout_s: float
) -> tuple[dict[str, Any], httpx2.Headers]:
    """Post `body` as JSON; return the object that is answered, and the headers.

    Raises:
        UpstreamFailed: it did not answer, not with 200, too much, or no JSON object.
    """
    try:
        async with asyncio.timeout(timeout_s):
            async with client.stream("POST", url, json=body) as response:
                refuse_status(response)
                raw = bytearray()
                async for part in response.aiter_raw():
                    raw += part
                    if len(raw) > MAX_REPLY:
                        raise UpstreamFailed(f"sent more than {MAX_REPLY:,} bytes")
        answer = parse(bytes(raw))
    except (httpx2.HTTPError, AddressRefused, TimeoutError) as error:
        raise UpstreamFailed(describe(error)) from error
    except ValueError as error:
        raise UpstreamFailed("did not answer in JSON") from error
    if not isinstance(answer, dict):
        raise UpstreamFailed("did not answer with a JSON object")
    return answer, response.headers


def refuse_status(response: httpx2.Response) -> None:
    """Accept status 200 only.

    Raises:
        UpstreamFailed: any other; what failed, without a subject.
    """
    if response.is_redirect:
        raise UpstreamFailed("answered with a redirect, which is not followed")
    if response.status_code != 200:
        raise UpstreamFailed(f"answered with HTTP status {response.status_code}")


def describe(error: Exception) -> str:
    """Say what failed, without a subject: "did not answer in time"."""
    if isinstance(error, AddressRefused):
        return f"may not be called: {error}"
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        return "cannot be connected to"
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return "did not answer in time"
    if isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError):
        return "closed the connection in the middle of an answer"
    return f"failed ({type(error).__name__})"
