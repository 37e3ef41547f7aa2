"""Redis goes away, hangs and comes back: refusals in time, recovery without a restart."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.frontend.clients import Connection, body, data_uri, image_message, post
from tests.pictures import scene
from tests.stack import Stack, embedded_valkey, free_port, until

IN_TIME_S = 2.0
PICTURE = data_uri(scene(("circle", "red", (60, 60))))


@contextmanager
def hung(stack: Stack) -> Iterator[None]:
    """A Redis that accepts connections and never answers."""
    pid = stack.redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def requests(address: str) -> list[Callable[[], httpx.Response]]:
    return [
        lambda: httpx.get(f"{address}/health", timeout=30),
        lambda: httpx.get(f"{address}/v1/models", timeout=30),
        lambda: post(address, body()),
        lambda: post(address, body(stream=True)),
        lambda: post(address, body(messages=image_message(PICTURE))),
    ]


def assert_refused_in_time(address: str) -> None:
    for request in requests(address):
        began = time.monotonic()
        response = request()
        assert time.monotonic() - began < IN_TIME_S
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "redis_unavailable"
        assert int(response.headers["retry-after"]) >= 1


def answers(address: str) -> bool:
    return post(address, body()).status_code == 200


def test_a_redis_that_was_never_there_is_a_refusal_in_time(tmp_path: Path) -> None:
    stack = Stack(f"redis://127.0.0.1:{free_port()}/0", tmp_path)
    try:
        assert_refused_in_time(stack.api())
    finally:
        stack.stop()


def test_a_redis_that_went_away_is_a_refusal_until_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    with embedded_valkey(tmp_path, port) as url:
        stack = Stack(url, tmp_path)
        stack.echo_worker()
        address = stack.api()
        assert answers(address)
    try:
        assert_refused_in_time(address)
        with embedded_valkey(tmp_path, port):
            until(lambda: answers(address), "the API answers again")
            assert httpx.get(f"{address}/health").json() == {"status": "ok"}
            stack.stop()
    finally:
        stack.stop()


def test_a_redis_that_hangs_is_a_refusal_in_time_and_forgotten_afterwards(stack: Stack) -> None:
    stack.echo_worker()
    address = stack.api()
    assert answers(address)
    with hung(stack):
        assert_refused_in_time(address)
    until(lambda: answers(address), "the API answers again")


def test_an_open_stream_outlives_a_short_absence_without_loss(tmp_path: Path) -> None:
    port = free_port()
    words = [f"w{place}" for place in range(60)]
    with embedded_valkey(tmp_path, port) as url:
        stack = Stack(url, tmp_path)
        stack.echo_worker("tokens_per_s=20")
        client = Connection(stack.api())
        client.send(body(" ".join(words), stream=True))
        chunks = [client.wait_for("data: {") for _ in range(6)]
        # The log is flushed to disk once a second; a clean stop loses nothing.
    try:
        with embedded_valkey(tmp_path, port), client:
            chunks += [line for line in client.lines_until_done() if line.startswith("data: {")]
            stack.stop()
    finally:
        stack.stop()
    deltas = [json.loads(chunk[6:])["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas).split() == words


def test_losing_redis_for_good_ends_a_stream_with_an_error(tmp_path: Path) -> None:
    with embedded_valkey(tmp_path) as url:
        stack = Stack(url, tmp_path)
        stack.echo_worker("tokens_per_s=20&tokens=2000")
        client = Connection(stack.api())
        client.send(body(stream=True))
        client.wait_for("id: 1-5")
    try:
        with client:
            error = json.loads(client.wait_for('data: {"error"')[6:])["error"]
            assert (error["type"], error["code"]) == ("server_error", "redis_unavailable")
            assert client.wait_for("data: ") == "data: [DONE]"
    finally:
        stack.stop()
