"""What an answer of 4,000 tokens at 100 tokens/s costs, and how late its last words are shown."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from statistics import median

import pytest
from playwright.sync_api import expect

from broker.messages import GenerateRequest
from frontend.service import Service
from frontend.ui.answer import UPDATE_S
from tests.frontend.chat_page import ANSWERED, ChatPage, chromium
from tests.frontend.gradio_tab import GradioTab, answer_of
from tests.frontend.test_ui_page import last_job
from tests.stack import Stack, until

TOKENS = 4000
LATEST_S = 0.3
"""From a token's event to the reader."""

BYTES_PER_TOKEN = 90
"""Most of it is the envelope of each of the twenty updates a second."""

PROSE = "".join(f"Sentence {n} says **something** and `code` of it.\n\n" for n in range(60))
CODE = "```python\n" + "".join(f"def double_{n}(x: int): return 2 * x\n" for n in range(572))
FORMULAS = "".join(f"Part {n} has $x^{n} + y$ in a line of its own.\n\n" for n in range(100))

pytestmark = pytest.mark.timeout(300)

# Each state of the answer's length with the time when it had been painted, and the gaps of frames.
_MEASURE = """() => {
  window.painted = [];
  window.gaps = [];
  let length = 0;
  new MutationObserver(() => {
    const answer = document.querySelector('#chat [data-testid="bot"]');
    const now = answer ? answer.textContent.length : 0;
    if (now === length) return;
    length = now;
    requestAnimationFrame(() => setTimeout(() => window.painted.push([Date.now(), now])));
  }).observe(
    document.querySelector('#chat'), {childList: true, subtree: true, characterData: true});
  let last = performance.now();
  const frame = (now) => {
    window.gaps.push([Date.now(), now - last]);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
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
    async def ask(address: str) -> tuple[list[tuple[int, int]], str, float, float]:
        sizes, text, at_s = [], "", 0.0
        async with GradioTab(address) as tab:
            reader: Reader | None = None
            async for told in tab.ask(PROSE, model="echo", max_tokens=4096):
                reader = reader or Reader(service, last_job(paced)[1])
                words = answer_of(told.outputs[0])
                sizes.append((len(words.split()), told.size))
                at_s = told.at_s if words != text else at_s
                text = words
        assert reader
        await asyncio.to_thread(reader.join)
        return sizes, text, at_s, reader.ended_s

    sizes, text, told_s, ended_s = asyncio.run(ask(paced.ui()))
    assert len(text.split()) == TOKENS
    assert told_s - ended_s <= LATEST_S
    first = sum(size for tokens, size in sizes if tokens <= TOKENS / 2)
    second = sum(size for tokens, size in sizes if tokens > TOKENS / 2)
    assert second <= 1.2 * first
    assert first + second <= BYTES_PER_TOKEN * TOKENS
    report(
        f"an answer of {TOKENS} tokens: {(first + second) / TOKENS:.0f} bytes a token, second half "
        f"{second / first:.2f} times the first, last token told after {told_s - ended_s:.3f} s"
    )


@pytest.mark.parametrize("text", [PROSE, CODE, FORMULAS], ids=["prose", "code", "formulas"])
def test_the_end_of_a_long_answer_is_shown_as_quickly_as_its_beginning(
    paced: Stack, service: Service, text: str, report: Callable[[str], None]
) -> None:
    with chromium() as browser:
        chat = ChatPage(browser, paced.ui())
        chat.page.goto(chat.address)
        expect(chat.model).to_have_value("echo", timeout=20_000)
        chat.set_slider("Max output tokens", 4096)
        chat.page.evaluate(_MEASURE)
        chat.ask(text)
        expect(chat.answers).to_have_count(1)
        reader = Reader(service, last_job(paced)[1])
        chat.expect_buttons(*ANSWERED, timeout_ms=120_000)
        until(lambda: not reader.is_alive(), "the job has ended")
        painted: list[tuple[float, int]] = chat.page.evaluate("window.painted")
        gaps: list[tuple[float, float]] = chat.page.evaluate("window.gaps")
        chat.close()
    lengths = [length for _, length in painted]
    shown_s = next(at_ms for at_ms, length in painted if length == lengths[-1]) / 1000
    assert lengths == sorted(lengths)
    eighth_s = (reader.ended_s - painted[0][0] / 1000) / 8
    early, late = (
        median(gap for at_ms, gap in gaps if 0 <= at_ms / 1000 - began_s < eighth_s)
        for began_s in (painted[0][0] / 1000 + eighth_s, reader.ended_s - eighth_s)
    )
    figures = f"last token painted after {shown_s - reader.ended_s:.3f} s, "
    figures += f"frames every {early:.0f} ms in the second eighth, {late:.0f} ms in the last"
    report(f"an answer of {TOKENS} tokens: {figures}")
    assert shown_s - reader.ended_s <= LATEST_S, figures
    assert late <= max(2 * early, UPDATE_S * 1000), figures
