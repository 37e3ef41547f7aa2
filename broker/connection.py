"""Connections to Redis: redis://, rediss://, unix:// and Sentinel, with the right retry rule.

redis-py repeats a command whose reply was lost, and so repeats writes. `connect` therefore gives
out clients of two kinds: by default one that retries (for reads and writes that may be repeated
without harm), with `retry=False` one that reports the failure at once (for writes that may not).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool

from broker import keys
from broker.errors import ConfigurationError, RedisFull, RedisReadOnly, RedisUnavailable
from broker.turns import Turns

CONNECT_TIMEOUT_S = 1.0
SOCKET_TIMEOUT_S = 1.5

SILENT_S = 5
"""A connection whose other end has been out of reach for so long is lost, though it only listens.

Nor does anything arrive later that was sent on it, such as a pop for which nobody waits any more.
"""

MAX_CONNECTIONS = 32
"""Connections of one client; the threads of a process with a thousand streams take turns."""

TURN_TIMEOUT_S = 10.0
"""Longest wait for one of them; redis-py's own pool would refuse at once beyond its 100th."""


def connect(
    url: str, *, retry: bool = True, socket_timeout_s: float | None = SOCKET_TIMEOUT_S
) -> redis.Redis:
    """Make a client for `url`; it connects on first use.

    Args:
        url: `redis://`, `rediss://`, `unix://`, or
            `sentinel://host:port,host:port/SERVICE?db=0&password=...`.
        retry: repeat a failed command twice after a short back-off.
        socket_timeout_s: longest wait for one reply; None for clients that block on purpose.

    Raises:
        ConfigurationError: the URL is of no known form.
    """
    options: dict[str, Any] = {
        "decode_responses": False,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": socket_timeout_s,
        "health_check_interval": 0,
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.05), 2) if retry else Retry(_NONE, 0),
    }
    if not url.startswith("unix://"):
        options |= {"socket_keepalive": True, "socket_keepalive_options": _keepalive()}
    if url.startswith("sentinel://"):
        return _connect_sentinel(url, options)
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError(
            f"REDIS_URL={url!r}: use redis://, rediss://, unix:// or sentinel://."
        )
    pool = redis.BlockingConnectionPool.from_url(
        url, max_connections=MAX_CONNECTIONS, timeout=TURN_TIMEOUT_S, queue_class=Turns, **options
    )
    return redis.Redis.from_pool(pool)  # closing the client closes its connections


_NONE = ExponentialBackoff(cap=0, base=0)


def _keepalive() -> dict[int, int]:
    """Options of TCP that end a connection after `SILENT_S`, as far as this system has them."""
    wanted = {
        "TCP_KEEPIDLE": 2,
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": SILENT_S - 2,
        "TCP_USER_TIMEOUT": SILENT_S * 1000,  # alone minds what was sent and not acknowledged
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


class _Sentinels(Sentinel):
    """Finds the primary of the moment; says so in a few words when there is none."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return host and port of the primary.

        Raises:
            MasterNotFoundError: no sentinel answered, or none knows a primary that lives.
        """
        try:
            found: tuple[str, int] = super().discover_master(service_name)  # type: ignore[no-untyped-call]
            return found
        except MasterNotFoundError:  # its own words list every option of every connection
            raise MasterNotFoundError(f"no sentinel knows a primary of {service_name}") from None


class _SentinelPool(SentinelConnectionPool, redis.BlockingConnectionPool):
    """Connections to the primary of the moment, for which threads take turns as elsewhere."""


def _connect_sentinel(url: str, options: dict[str, Any]) -> redis.Redis:
    parts = urlsplit(url)
    service = parts.path.strip("/")
    hosts = [entry.rpartition(":") for entry in parts.netloc.split(",")]
    if not service or not all(host and port.isdigit() for host, _, port in hosts):
        raise ConfigurationError(
            f"REDIS_URL={url!r}: the form is sentinel://host:port,host:port/SERVICE?db=0."
        )
    query = parse_qs(parts.query)
    asking = {
        "socket_timeout": CONNECT_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(_NONE, 0),  # the next sentinel is asked instead
    }
    sentinel: Any = _Sentinels(  # type: ignore[no-untyped-call]
        [(host, int(port)) for host, _, port in hosts], sentinel_kwargs=asking
    )
    client: redis.Redis = sentinel.master_for(
        service,
        connection_pool_class=_SentinelPool,
        max_connections=MAX_CONNECTIONS,
        timeout=TURN_TIMEOUT_S,
        queue_class=Turns,
        db=int(query.get("db", ["0"])[0]),
        password=query.get("password", [None])[0],
        **options,
    )
    return client


def check_writes(client: redis.Redis) -> None:
    """Raise what Redis says to a write, should it be full or a replica."""
    client.set(keys.PROBE, "", px=1)


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn any Redis failure inside the block into `RedisUnavailable` or what it is exactly."""
    try:
        yield
    except OutOfMemoryError as error:
        raise RedisFull(
            "Redis is full, so the request was not accepted. Try again later; the operator has to "
            "raise its maxmemory or free memory."
        ) from error
    except ReadOnlyError as error:
        raise RedisReadOnly(
            "Redis is a replica that takes no writes, so the request was not accepted. Try again "
            "later; the operator has to make it the primary, or set REDIS_URL to the primary."
        ) from error
    except RedisError as error:
        raise RedisUnavailable(
            "Redis does not answer or refuses writes, so the request was not accepted. "
            "Try again in a few seconds."
        ) from error
