"""The chat page with the demo model: the answer is right only if the picture really arrived."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from tests.frontend.chat_page import ANSWERED, ChatPage, chromium
from tests.stack import Stack

ROOT = Path(__file__).parents[2]
SCREENSHOT = ROOT / "docs" / "images" / "chat.png"


def test_a_person_asks_about_scenes_and_gets_the_right_answers(demo_stack: Stack) -> None:
    with chromium() as browser:
        chat = ChatPage(browser, demo_stack.ui()).open()
        chat.page.get_by_text("What do you see?").click()
        expect(chat.message).to_have_value("What do you see?")
        expect(chat.attached).to_have_count(1)
        chat.button("Send").click()
        chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
        for name in ("red circle", "blue square", "yellow star", "green triangle"):
            expect(chat.answers.first).to_contain_text(name)
        assert len(chat.seen) > 1, "the answer came in one piece"

        chat.ask("How many shapes are there?")
        expect(chat.answers).to_have_count(2, timeout=60_000)
        chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
        expect(chat.answers.last).to_contain_text("four")
        expect(chat.line).to_contain_text("tokens")
        SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
        chat.page.screenshot(path=SCREENSHOT, animations="disabled")

        chat.upload(ROOT / "frontend" / "ui" / "examples" / "five-shapes.png")
        chat.ask("How many shapes are there?")
        expect(chat.answers).to_have_count(3, timeout=60_000)
        chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
        expect(chat.answers.last).to_contain_text("five")
        chat.close()
