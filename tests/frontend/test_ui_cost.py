"""What a long answer costs, how late its last words are told, and when the page is painted."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from unittest.mock import patch

import psutil
import pytest
from gradio import Blocks
from gradio.queueing import Queue
from playwright.sync_api import expect

from broker.messages import GenerateRequest
from broker.settings import Settings
from frontend.service import Service
from frontend.ui.app import set_up_gradio
from tests.asking import newest
from tests.frontend.chat_page import ANSWERED, ChatPage, chromium
from tests.frontend.gradio_tab import GradioTab, Told, answer_of
from tests.stack import Stack

TOKENS = 4000
LATEST_S = 0.3
"""From a token's event to the reader."""

BYTES_PER_TOKEN = 90
"""Most of it is the envelopes of the updates."""

LOADS = 5
PAINTED_S = 2.0

ENVELOPE_BYTES = 4096

TABS = 300
TAB_BYTES = 100 * 2**10
"""Of the page's process for each tab that was ever open, most of it components that changed."""

PROSE = "".join(f"Sentence {n} says **something** and `code` of it.\n\n" for n in range(60))

CODE = "```python\n" + "".join(f"def double_{n}(x): return 2 * x\n" for n in range(60)) + "```\n\n"
FORMULAS = "".join(f"Part {n} has $x^{n} + y$ in a line of its own.\n\n" for n in range(30))

pytestmark = pytest.mark.timeout(300)

# The length of the newest answer each time that it has grown, with when that had been painted.
_WATCH_PAINT = """() => {
  window.painted = [];
  let length = 0;
  new MutationObserver(() => {
    const answer = document.querySelector('#chat [data-testid="bot"]');
    const now = answer ? answer.textContent.length : 0;
    if (now === length) return;
    length = now;
    requestAnimationFrame(() => setTimeout(() => window.painted.push([Date.now(), now])));
  }).observe(
    document.querySelector('#chat'), {childList: true, subtree: true, characterData: true});
}"""


class Reader(threading.Thread):
    """Notes when the events of a job come."""

    def __init__(self, service: Service, request: GenerateRequest) -> None:
        super().__init__(daemon=True)
        self._service, self._request = service, request
        self.ended_s = 0.0
        self.start()

    def run(self) -> None:
        for _ in self._service.follow(self._request):
            self.ended_s = time.time()


@pytest.fixture
def paced(stack: Stack) -> Iterator[Stack]:
    stack.echo_worker(f"tokens_per_s=100&tokens={TOKENS}&context_length=16384")
    yield stack


def test_bytes_grow_with_the_answer_and_the_last_token_is_told_at_once(
    paced: Stack, service: Service, report: Callable[[str], None]
) -> None:
    async def ask(address: str) -> tuple[list[tuple[int, Told]], str, float, float]:
        seen, text, at_s = [], "", 0.0
        async with GradioTab(address) as tab:
            reader: Reader | None = None
            async for told in tab.ask(PROSE, model="echo", max_tokens=4096):
                reader = reader or Reader(service, newest(paced).request)
                words = answer_of(told.outputs[0])
                seen.append((len(words.split()), told))
                at_s = told.at_s if words != text else at_s
                text = words
        assert reader
        await asyncio.to_thread(reader.join)
        return seen, text, at_s, reader.ended_s

    seen, text, told_s, ended_s = asyncio.run(ask(paced.ui()))
    assert len(text.split()) == TOKENS
    assert told_s - ended_s <= LATEST_S
    *updates, (_, last) = seen
    first = sum(told.size for tokens, told in updates if tokens <= TOKENS / 2)
    second = sum(told.size for tokens, told in updates if tokens > TOKENS / 2)
    assert last.is_last and last.size <= 1.1 * len(text) + ENVELOPE_BYTES, "the whole, once"
    assert second <= 1.1 * first
    assert first + second + last.size <= BYTES_PER_TOKEN * TOKENS
    report(
        f"an answer of {TOKENS} tokens: {(first + second) / TOKENS:.0f} bytes a token, second half "
        f"{second / first:.2f} times the first, last token told after {told_s - ended_s:.3f} s"
    )


def test_the_last_token_is_painted_at_once(
    paced: Stack, service: Service, report: Callable[[str], None]
) -> None:
    """In a browser that renders prose, code and formulas."""
    with chromium() as browser:
        chat = ChatPage(browser, paced.ui()).open(model="echo")
        chat.set_slider("Max output tokens", 4096)
        chat.page.evaluate(_WATCH_PAINT)
        chat.ask(PROSE + CODE + FORMULAS)
        expect(chat.answers).to_have_count(1)
        reader = Reader(service, newest(paced).request)
        chat.expect_buttons(*ANSWERED, timeout_ms=120_000)
        reader.join()
        painted: list[tuple[float, int]] = chat.page.evaluate("window.painted")
        assert chat.answers.locator(".katex").count() > 30
        chat.close()
    whole = painted[-1][1]
    shown_s = next(at_ms for at_ms, length in painted if length == whole) / 1000
    late_s = shown_s - reader.ended_s
    report(f"an answer of {TOKENS} tokens: last token painted after {late_s:.3f} s")
    assert late_s <= LATEST_S


def test_the_page_is_painted_soon(echo_stack: Stack, report: Callable[[str], None]) -> None:
    """In browsers that have never seen it."""
    address = echo_stack.ui()
    painted_s, ready_s = zip(*(first_paint(address) for _ in range(LOADS)), strict=True)
    report(
        f"the page in {LOADS} new browsers: painted after {median(painted_s):.2f} s, slowest "
        f"{max(painted_s):.2f} s; a message can be written after {median(ready_s):.2f} s"
    )
    assert median(painted_s) <= PAINTED_S


def first_paint(address: str) -> tuple[float, float]:
    """Seconds until the browser paints something of the page, and until one can write in it."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(address, wait_until="commit")
        expect(page.get_by_label("Message", exact=True)).to_be_editable(timeout=20_000)
        ready_ms = page.evaluate("performance.now()")
        painted_ms = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        return painted_ms / 1000, ready_ms / 1000


def test_tabs_that_were_open_take_little_memory(
    echo_stack: Stack, report: Callable[[str], None]
) -> None:
    address = echo_stack.ui()
    process = psutil.Process(echo_stack.processes[-1].pid)

    async def grown_bytes() -> float:
        async with GradioTab(address) as tab:
            for _ in range(TABS):  # until what is kept of all of them together is there
                await tab.settle_as_another()
            before = process.memory_full_info().uss
            for _ in range(TABS):
                await tab.settle_as_another()
            return float(process.memory_full_info().uss - before)

    a_tab = asyncio.run(grown_bytes()) / TABS
    report(f"{TABS} tabs that were open: {a_tab / 2**10:.0f} KiB each")
    assert a_tab <= TAB_BYTES


async def new_queue() -> Queue:
    return Queue(False, 1, 1.0, None, Blocks)


def test_the_end_of_an_event_costs_the_same_however_many_there_were(tmp_path: Path) -> None:
    with patch.dict(os.environ), patch.dict(sys.modules):
        set_up_gradio(Settings.from_environment({}), tmp_path)
        queue = asyncio.run(new_queue())
    queue.events_recorded = 10_000
    event = {"time": 0.0, "status": "success", "process_time": 1.0, "function": "send"}
    assert queue.compute_analytics_summary([event] * 10_000) == {"functions": {}}
    assert queue.ANALYTICS_MAX_EVENTS == 1
