"""A closed tab, a pressed Stop, a dead page: what becomes of the answer that was being shown."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import BrowserContext

from broker import jobs, keys
from tests.asking import newest, running
from tests.frontend.chat_page import ChatPage
from tests.stack import Process, Stack, until

SLOW = "echo?tokens_per_s=25&tokens=275"
GRACE_S = 3  # with a reader's lease, it is shorter than an answer of 11 s
LATEST_S = 12.0
"""From the end of a grace to the cancellation at the latest: lease and janitor, machine busy."""


@pytest.fixture(scope="module")
def slow(echo_stack: Stack) -> Process:
    return echo_stack.worker("--engine", "echo", "--model-path", SLOW, "--model-name", "slow")


@pytest.fixture
def page(echo_stack: Stack, slow: Process) -> Iterator[tuple[str, Process]]:
    """A chat page that the test may kill, and its process."""
    address = echo_stack.ui(HELIOGRAPH_UI_GRACE_S=str(GRACE_S))
    process = echo_stack.processes[-1]
    yield address, process
    process.stop()


def ask(stack: Stack, browser: BrowserContext, address: str) -> tuple[ChatPage, str]:
    """Open a tab whose answer has begun; return it and its job."""
    tab = ChatPage(browser, address).open("?model=slow", model="slow")
    tab.ask("anybody there?")
    tab.page.wait_for_function("window.seen.length >= 2")
    return tab, newest(stack).id


def state(stack: Stack, job_id: str) -> str:
    return jobs.read(stack.redis, job_id).state


def test_a_closed_tabs_answer_goes_on_for_the_grace_and_then_frees_its_slot(
    echo_stack: Stack, browser: BrowserContext, page: tuple[str, Process]
) -> None:
    tab, job_id = ask(echo_stack, browser, page[0])
    assert jobs.read(echo_stack.redis, job_id).on_disconnect == f"grace:{GRACE_S}"
    tab.close()
    closed_s = time.monotonic()
    until(lambda: state(echo_stack, job_id) == "cancelled", "the job is cancelled")
    assert GRACE_S <= time.monotonic() - closed_s <= GRACE_S + LATEST_S
    until(lambda: running(echo_stack) == 0, "the slot is free", 3)


def test_an_answer_that_is_looked_at_outlives_every_grace(
    echo_stack: Stack, browser: BrowserContext, page: tuple[str, Process]
) -> None:
    """Grace and lease are shorter than the answer, whose reader renews them."""
    tab, job_id = ask(echo_stack, browser, page[0])
    until(lambda: state(echo_stack, job_id) != "running", "it has ended", 60)
    assert state(echo_stack, job_id) == "done"
    tab.close()


def test_stop_does_not_wait_for_the_grace(
    echo_stack: Stack, browser: BrowserContext, page: tuple[str, Process]
) -> None:
    tab, job_id = ask(echo_stack, browser, page[0])
    tab.button("Stop").click()
    until(lambda: state(echo_stack, job_id) == "cancelled", "the job is cancelled", 2)
    tab.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_grace_holds_when_the_page_itself_is_gone(
    echo_stack: Stack,
    browser: BrowserContext,
    page: tuple[str, Process],
    number: signal.Signals,
) -> None:
    tab, job_id = ask(echo_stack, browser, page[0])
    killed_s = time.monotonic()
    page[1].signal(number)
    page[1].wait()
    assert state(echo_stack, job_id) == "running"
    until(lambda: state(echo_stack, job_id) == "cancelled", "the job is cancelled")
    assert GRACE_S <= time.monotonic() - killed_s <= GRACE_S + keys.READER_TTL_S + LATEST_S
    tab.page.close()


def test_who_comes_back_over_http_within_the_grace_gets_the_whole_answer(
    echo_stack: Stack, browser: BrowserContext, page: tuple[str, Process]
) -> None:
    api = echo_stack.api()
    tab, job_id = ask(echo_stack, browser, page[0])
    tab.close()
    text = httpx.get(f"{api}/v1/jobs/{job_id}/events", timeout=60).text
    assert '"finish_reason":"stop"' in text or '"finish_reason":"length"' in text
    assert state(echo_stack, job_id) == "done"
