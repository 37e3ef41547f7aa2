"""Chats in a real browser: what a reload, a second tab and a second UI process show of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from broker import jobs, keys
from tests.frontend.chat_page import ANSWERED, ChatPage, chromium
from tests.frontend.test_ui_page import last_job, votes
from tests.stack import Stack, until

WORDS = 100
SLOW = f"echo?tokens_per_s=25&tokens={WORDS}"
QUESTION = "one two three four five six seven"


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    """A page over two models: echo answers at once, slow takes 4 s."""
    echo_stack.worker("--engine", "echo", "--model-path", SLOW, "--model-name", "slow")
    return echo_stack.ui()


@pytest.fixture(scope="module")
def other_address(echo_stack: Stack, address: str) -> str:
    """The page of a second process over the same Redis."""
    return echo_stack.ui()


@pytest.fixture
def chat(browser: BrowserContext, address: str) -> Iterator[ChatPage]:
    tab = ChatPage(browser, address)
    yield tab
    tab.close()


def chat_id(tab: ChatPage) -> str:
    """The chat of a tab's address, once it is there."""
    shown = "new URLSearchParams(location.search).get('chat')"
    return str(tab.page.wait_for_function(shown).json_value())


def begin(tab: ChatPage) -> str:
    """Ask for an answer of 4 s, and return the chat when some words are there."""
    tab.open("?model=slow", model="slow").ask(QUESTION)
    tab.page.wait_for_function("window.seen.length >= 3")
    return chat_id(tab)


def reload(tab: ChatPage, query: str) -> None:
    """Load the page in mid-answer; Gradio calls its own broken connections errors."""
    tab.open(query)
    tab.errors.clear()


def whole() -> str:
    """What the slow model says to the question."""
    return " ".join((QUESTION.split() * WORDS)[: WORDS + 1])


def test_a_reload_in_mid_answer_goes_on_with_it(chat: ChatPage) -> None:
    opened = begin(chat)
    before = chat.seen[-1]
    reload(chat, f"?chat={opened}")
    chat.expect_buttons(*ANSWERED)
    states = chat.seen
    assert len(states) > 3 and len(states[0]) >= len(before)
    assert all(new.startswith(old) for old, new in pairwise([before, *states]))
    expect(chat.answers).to_have_count(1)
    expect(chat.questions).to_have_text(QUESTION)
    assert chat.model.input_value() == "slow"
