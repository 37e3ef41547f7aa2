"""Foreign workers as they come and go: what they say of themselves is written down for the bridge.

Who may say it is the door's to decide; see `broker.foreign` for what becomes of it.
"""

from __future__ import annotations

import redis

from broker import foreign
from broker.connection import redis_errors
from broker.foreign import ForeignWorker


class ForeignWorkers:
    """Those of one Redis; every call may raise RedisUnavailable."""

    def __init__(self, client: redis.Redis) -> None:
        """Write with `client`."""
        self._client = client

    @redis_errors()
    def register(self, worker: ForeignWorker) -> None:
        """Take a worker into the fleet, or renew what is known of it."""
        foreign.register(self._client, worker)

    @redis_errors()
    def beat(self, address: str, queue_length: int) -> bool:
        """Note that a worker lives; False when it has to register again."""
        return foreign.beat(self._client, address, queue_length)

    @redis_errors()
    def withdraw(self, address: str) -> bool:
        """Take a worker out of the fleet; False when it was not in it."""
        return foreign.withdraw(self._client, address)
