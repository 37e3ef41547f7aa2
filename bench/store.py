"""What a Redis holds: memory by kind of key, and keys that never expire."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import redis

from broker import keys

LASTING = frozenset(
    (
        keys.WORKERS,
        keys.MODELS,
        keys.SERVER,
        keys.CELL,
        keys.CHAT_LOG,
        keys.DEADLINES,
        keys.START_BY,
        keys.QUARANTINE,
    )
)
"""Keys that stay, see `broker.keys`; their members are swept, few, or bounded."""

_ID = re.compile(r"[0-9a-f]{16,}|(?<=rq:worker:).*")
_RQ_LASTING = re.compile(r"rq:(queues|workers|workers:.*|wip:.*)")
_PAGE = 1000


@dataclass(frozen=True)
class Store:
    """Bytes that Redis says it uses, bytes of its keys by kind, and keys that should expire."""

    used: int
    kinds: dict[str, int]
    everlasting: tuple[str, ...]

    @property
    def rest(self) -> int:
        """What is no key: connections, buffers, tables."""
        return self.used - sum(self.kinds.values())


def read(client: redis.Redis) -> Store:
    """Look at each key."""
    kinds: Counter[str] = Counter()
    everlasting: list[str] = []
    names: list[bytes] = list(client.scan_iter(count=_PAGE))
    for place in range(0, len(names), _PAGE):
        page = names[place : place + _PAGE]
        pipe = client.pipeline(transaction=False)
        for name in page:
            pipe.memory_usage(name, samples=0)
            pipe.ttl(name)
        facts: list[Any] = pipe.execute()
        for raw, size, ttl in zip(page, facts[::2], facts[1::2], strict=True):
            name = raw.decode()
            kinds[_ID.sub("{id}", name)] += size or 0
            if ttl == -1 and name not in LASTING and not _RQ_LASTING.fullmatch(name):
                everlasting.append(name)
    used = int(client.info("memory")["used_memory"])
    return Store(used, dict(kinds.most_common()), tuple(sorted(everlasting)))
