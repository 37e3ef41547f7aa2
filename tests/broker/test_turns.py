"""Connections are given to whoever has waited longest; see `broker.turns`."""

from __future__ import annotations

import queue
import threading

import pytest

from broker.connection import connect
from broker.turns import Turns
from tests.stack import until


def test_a_freed_item_goes_to_the_first_in_line_not_to_whoever_runs_first() -> None:
    turns, served, may_pass_on = Turns(1), list[int](), threading.Event()
    turns.put_nowait("the only one")
    held = turns.get()

    def wait_and_pass_on(place: int) -> None:
        item = turns.get(timeout=30)
        served.append(place)
        may_pass_on.wait(30)
        turns.put_nowait(item)

    threads = [threading.Thread(target=wait_and_pass_on, args=(place,)) for place in range(20)]
    for place, thread in enumerate(threads):
        thread.start()
        until(lambda place=place: turns.waiting == place + 1, "it stands in line")  # type: ignore[misc]
    turns.put_nowait(held)
    with pytest.raises(queue.Empty):  # it is the first one's, whether that has run by now or not
        turns.get(block=False)
    may_pass_on.set()
    for thread in threads:
        thread.join()
    assert served == list(range(20))
    assert turns.get(block=False) == "the only one"


def test_who_waits_in_vain_leaves_the_line() -> None:
    turns = Turns(2)
    with pytest.raises(queue.Empty):
        turns.get(timeout=0.01)
    turns.put_nowait("first")
    turns.put_nowait("second")
    with pytest.raises(queue.Full):
        turns.put_nowait("third")
    assert [turns.get(), turns.get()] == ["second", "first"]


@pytest.mark.parametrize("has_come", [True, False])
def test_who_is_told_to_end_in_the_line_takes_nothing_along(
    monkeypatch: pytest.MonkeyPatch, has_come: bool
) -> None:
    turns = Turns(1)

    def wait(*_: object) -> None:
        if has_come:
            turns.put_nowait("the only one")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Event, "wait", wait)
        with pytest.raises(KeyboardInterrupt):
            turns.get(timeout=1)
    assert turns.waiting == 0
    if not has_come:
        turns.put_nowait("the only one")
    assert turns.get(block=False) == "the only one"


def test_more_threads_than_connections_all_get_their_answers(valkey_url: str) -> None:
    client = connect(valkey_url)
    counts: queue.SimpleQueue[int] = queue.SimpleQueue()
    key = "helio:test:turns"

    def count() -> None:
        for _ in range(20):
            counts.put(int(client.incr(key)))

    threads = [threading.Thread(target=count) for _ in range(100)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(counts.get() for _ in range(2000)) == list(range(1, 2001))
    finally:
        client.delete(key)
        client.close()
