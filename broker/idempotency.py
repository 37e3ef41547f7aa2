"""One job for one `Idempotency-Key`: which job a key has started, and with what body.

The key is written in the transaction that submits the job (`queues`), and expires with its record.
A job that was cancelled or failed has no answer, nor has one whose log has expired: the next
request of its key starts another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import redis

from broker import keys
from broker.errors import KeyReused


@dataclass(frozen=True, slots=True)
class Once:
    """A key and a body as SHA-256, 64 hex digits each."""

    key: str
    body: str

    @classmethod
    def of(cls, key: str, body: bytes) -> Once:
        """Digest what a client sent."""
        return cls(hashlib.sha256(key.encode()).hexdigest(), hashlib.sha256(body).hexdigest())

    @property
    def name(self) -> str:
        """Redis key that says which job it started."""
        return keys.idempotency(self.key)

    def value(self, job_id: str) -> str:
        """What is written there."""
        return f"{job_id} {self.body}"


def find(client: redis.Redis, once: Once) -> str | None:
    """Return the id of the live or finished job that the key started, None if there is none.

    Args:
        client: a client, or a pipeline that watches the key and has not begun its transaction.
        once: the key and its body.

    Raises:
        KeyReused: it was started with another body.
    """
    found: Any = client.get(once.name)
    if found is None:
        return None
    job_id, body = found.decode().split()
    if not _has_answer(client, job_id):
        return None
    if body != once.body:
        raise KeyReused(
            "This Idempotency-Key came with another request before. Use a new key for each new "
            "request, and repeat a key only with the same body.",
            param="Idempotency-Key",
        )
    return str(job_id)


def _has_answer(client: redis.Redis, job_id: str) -> bool:
    record: Any = client.hmget(keys.job(job_id), ("state", "cancel"))
    match record:
        case (b"done", _):
            return bool(client.exists(keys.events(job_id)))
        case (b"queued" | b"running", cancelled):
            return not cancelled
    return False
