"""A model of its own for each test of queues, and what submits to it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from broker import queues
from broker.connection import connect


@pytest.fixture
def model() -> str:
    return f"model-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def submitter(server_url: str) -> Iterator[queues.Submitter]:
    once = connect(server_url, retry=False)
    yield queues.Submitter(once, max_queue_length=3)
    once.close()
