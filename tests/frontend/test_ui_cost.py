"""What an answer of 4,000 tokens at 100 tokens/s costs, and how late its last words are told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from broker.messages import GenerateRequest
from frontend.service import Service
from tests.frontend.gradio_tab import GradioTab, answer_of
from tests.frontend.test_ui_page import last_job
from tests.stack import Stack

TOKENS = 4000
LATEST_S = 0.3
"""From a token's event to the reader."""

BYTES_PER_TOKEN = 90
"""Most of it is the envelope of each of the twenty updates a second."""

PROSE = "".join(f"Sentence {n} says **something** and `code` of it.\n\n" for n in range(60))

pytestmark = pytest.mark.timeout(300)


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
