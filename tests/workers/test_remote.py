"""A worker whose engine is another server: a second cell of the product stands behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import registry
from frontend.service import Service
from tests.stack import Process, Stack, embedded_valkey
from tests.workers.test_worker import answer, ask


@pytest.fixture
def cells(tmp_path: Path) -> Iterator[tuple[Stack, Stack]]:
    """Two cells with nothing but a Valkey each: the one people ask, and the one that computes."""
    with embedded_valkey(tmp_path / "near") as near, embedded_valkey(tmp_path / "far") as far:
        stacks = (Stack(near, tmp_path / "near"), Stack(far, tmp_path / "far"))
        yield stacks
        for stack in stacks:
            stack.stop()


@pytest.fixture
def near(cells: tuple[Stack, Stack]) -> Stack:
    return cells[0]


@pytest.fixture
def far(cells: tuple[Stack, Stack]) -> Stack:
    return cells[1]


@pytest.fixture
def service(near: Stack) -> Iterator[Service]:
    made = Service(near.settings())
    yield made
    made.close()


def remote_worker(stack: Stack, upstream: str, name: str = "echo", *flags: str) -> Process:
    """A worker in `stack` that has `upstream` compute."""
    return stack.worker("--engine", "remote", "--upstream", upstream, "--model-name", name, *flags)


def test_answers_come_from_the_upstream_with_its_usage(
    near: Stack, far: Stack, service: Service
) -> None:
    far.echo_worker()
    remote_worker(near, far.api())
    text, end = answer(service, ask(service, "one two three"))
    assert (text, end.finish_reason) == ("one two three", "stop")
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, 4)
    (info,) = registry.workers(near.redis)
    assert (info.engine, info.context_length, info.images) == ("remote", 8192, True)
