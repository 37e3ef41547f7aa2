"""A model of its own for each test of queues, what submits to it, and what reads channels."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis

from broker.connection import connect
from broker.submission import Submitter
from broker.subscriber import Subscriber


@pytest.fixture
def model() -> str:
    return f"model-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def owner() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def once(server_url: str) -> Iterator[redis.Redis]:
    """A client that does not retry."""
    made = connect(server_url, retry=False)
    yield made
    made.close()


@pytest.fixture
def submitter(once: redis.Redis) -> Submitter:
    return Submitter(once, max_queue_length=3)


@pytest.fixture
def subscriber(client: redis.Redis) -> Iterator[Subscriber]:
    made = Subscriber(client)
    yield made
    made.close()
