"""The chat page without a mouse."""

from __future__ import annotations

from playwright.sync_api import BrowserContext, FloatRect, Page, expect

from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack

MOST_TABS = 60
MARGIN = 24
"""Pixels around what has the focus that may show it."""

_NAME = """() => {
  const here = document.activeElement;
  return here.getAttribute('aria-label') || here.labels?.[0]?.innerText || here.innerText;
}"""


def is_seen(page: Page) -> bool:
    """Whether what has the focus looks otherwise without it."""
    here = page.evaluate_handle("document.activeElement").as_element()
    box = here and here.bounding_box()
    assert here and box
    around: FloatRect = {
        "x": max(0, box["x"] - MARGIN),
        "y": max(0, box["y"] - MARGIN),
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + 2 * MARGIN,
    }
    with_focus = page.screenshot(clip=around, animations="disabled")
    here.evaluate("(here) => here.blur()")
    without = page.screenshot(clip=around, animations="disabled")
    here.focus()
    return with_focus != without


def tab_to(page: Page, name: str) -> None:
    """Go on with Tab until something of that name has the focus, which must be seen."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if page.evaluate(_NAME).strip() == name:
            assert is_seen(page), f"nobody sees that {name} has the focus"
            return
    raise AssertionError(f"no {MOST_TABS} tabs lead to {name}")


def test_ask_stop_and_vote_by_keyboard(browser: BrowserContext, stack: Stack) -> None:
    stack.echo_worker("tokens_per_s=20", **{"model-name": "alpha"})
    stack.echo_worker("tokens_per_s=20", **{"model-name": "beta"})
    chat = ChatPage(browser, stack.ui()).open(model="alpha")
    page = chat.page
    tab_to(page, "Model")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(chat.model).to_have_value("beta")
    tab_to(page, "Message")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two " * 200)
    page.keyboard.press("Enter")
    page.wait_for_function("window.seen.length >= 3")
    tab_to(page, "Stop")
    page.keyboard.press("Enter")
    expect(chat.line).to_contain_text("stopped")
    chat.expect_buttons("Send", *ANSWERED)
    tab_to(page, "Upvote")
    page.keyboard.press("Space")
    expect(chat.button("Upvote")).to_be_disabled()
    chat.close()
