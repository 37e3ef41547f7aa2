"""The browser of a module, a tab in it, and the API without a server before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import BrowserContext

from frontend.api.app import create_app
from frontend.service import Service
from tests.frontend.chat_page import ChatPage, chromium
from tests.stack import Stack


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    with chromium() as started:
        yield started


@pytest.fixture
def chat(browser: BrowserContext, address: str) -> Iterator[ChatPage]:
    """A tab for the chat page at the module's `address`, which it does not load yet."""
    tab = ChatPage(browser, address)
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def app(echo_stack: Stack) -> Iterator[FlaskClient]:
    """A client of the API that calls it in this process."""
    settings = echo_stack.settings()
    with closing(Service(settings)) as service:
        yield create_app(settings, service).test_client()
