"""The chat page as programs see it: fifty chats at once, and files that are none."""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import pytest
import redis

from broker import keys
from tests.frontend.gradio_tab import GradioTab, answer_of
from tests.stack import Stack

TABS = 50
WORDS = 100
SPEED = 20
"""Tokens a second of each answer; a word is one."""

LATEST_S = 0.25
"""From an event to the page, for 95 of 100 states of an answer that are shown."""

FIRST_S = 1.0
"""The same for the first state of an answer, while all fifty ask in the same instant."""

pytestmark = pytest.mark.timeout(180)


@dataclass
class Told:
    """An answer as it was published: its text so far, and when it was how long."""

    text: str = ""
    lengths: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.text += text
        self.lengths.append(len(self.text))
        self.times_s.append(time.time())

    def delay_s(self, text: str, shown_s: float) -> float:
        """How long after the event that brought it a state was shown."""
        return shown_s - self.times_s[bisect_left(self.lengths, len(text))]


@contextmanager
def published(client: redis.Redis) -> Iterator[dict[str, Told]]:
    """What is published meanwhile, by job."""
    answers: dict[str, Told] = defaultdict(Told)

    def note(message: Any) -> None:
        _, fields = json.loads(message["data"])
        answers[message["channel"].decode()].add(fields.get("d", ""))

    with client.pubsub() as pubsub:
        pubsub.psubscribe(**{keys.live("*"): note})
        thread: Any = pubsub.run_in_thread(sleep_time=0.1)
        try:
            yield answers
        finally:
            thread.stop()
            thread.join()


async def states(tab: GradioTab, text: str, waits: list[float]) -> list[tuple[float, str]]:
    """Ask; return each state of the answer that the page shows, and when it came.

    Notes how long after the asking the first one came.
    """
    shown: list[tuple[float, str]] = []
    asked_s = time.time()
    async for told in tab.ask(text, model="echo", max_tokens=WORDS):
        words = answer_of(told.outputs[0])
        if words and not shown:
            waits.append(told.at_s - asked_s)
        if words and (not shown or words != shown[-1][1]):
            shown.append((told.at_s, words))
    return shown


def test_fifty_chats_at_once(stack: Stack, report: Callable[[str], None]) -> None:
    stack.echo_worker(f"tokens_per_s={SPEED}", **{"limit-model-concurrency": str(TABS)})
    address = stack.ui()
    texts = [" ".join(f"{word}of{tab}" for word in range(WORDS)) for tab in range(TABS)]

    waits: list[float] = []

    async def ask_all() -> list[list[tuple[float, str]]]:
        async with AsyncExitStack() as open_tabs:
            tabs = [await open_tabs.enter_async_context(GradioTab(address)) for _ in texts]
            return await asyncio.gather(*map(states, tabs, texts, repeat(waits)))

    with published(stack.redis) as answers:
        shown = asyncio.run(ask_all())
    assert [each[-1][1] for each in shown] == texts
    told = {each.text: each for each in answers.values()}
    delays = [
        [told[text].delay_s(state, at_s) for at_s, state in each]
        for text, each in zip(texts, shown, strict=True)
    ]
    first = sorted(each[0] for each in delays)
    later = sorted(delay for each in delays for delay in each[1:])
    report(
        f"{TABS} chats of {SPEED} tokens/s on one process of the page: {len(later)} states shown, "
        f"{figures(later)} after their events; first words {figures(first)}, "
        f"{figures(sorted(waits))} after the questions"
    )
    assert share(later, 0.95) <= LATEST_S
    assert share(first, 0.95) <= FIRST_S


def share(delays: list[float], part: float) -> float:
    """What so many of sorted delays are below, in seconds."""
    return delays[int(part * len(delays))]


def figures(delays: list[float]) -> str:
    return f"{1000 * share(delays, 0.5):.0f} ms, p95 {1000 * share(delays, 0.95):.0f} ms"


def test_an_address_sent_as_a_file_is_not_fetched(stack: Stack) -> None:
    """Gradio would ask for it before anything of ours runs."""

    stack.echo_worker()

    async def ask(address: str) -> None:
        async with GradioTab(address) as tab:
            files = ["http://pictures.example/red.png"]
            async for _ in tab.ask("Look", model="echo", max_tokens=64, files=files):
                pass

    with pytest.raises(AssertionError, match="Addresses are not fetched: upload the picture"):
        asyncio.run(ask(stack.ui()))
