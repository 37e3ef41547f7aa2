"""The chat page with `--moderate`: what is flagged is not sent, and its writer is told."""

from __future__ import annotations

from playwright.sync_api import BrowserContext, expect

from broker import keys
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack


def test_what_a_moderator_flags_is_not_sent_and_stays_in_its_box(
    stack: Stack, browser: BrowserContext
) -> None:
    words = stack.folder / "words.txt"
    words.write_text("forbidden fruit\n")
    stack.echo_worker()
    address = stack.ui(HELIOGRAPH_MODERATION="on", HELIOGRAPH_MODERATION_WORDS=str(words))
    chat = ChatPage(browser, address).open(model="echo")
    chat.ask("Where is the FORBIDDEN  fruit?")
    expect(chat.line).to_contain_text("breaks the content guidelines of this page")
    expect(chat.message).to_have_value("Where is the FORBIDDEN  fruit?")
    expect(chat.questions).to_have_count(0)
    chat.expect_buttons("Send")
    assert not list(stack.redis.scan_iter(match="helio:job:*"))
    chat.ask("Where is the fruit?")
    expect(chat.answers.last).to_have_text("Where is the fruit?")
    chat.expect_buttons(*ANSWERED)
    decisions = [
        (fields[b"decision"], fields[b"subject"] != b"")
        for _, fields in stack.redis.xrange(keys.MODERATION_LOG)  # type: ignore[union-attr]
    ]
    assert decisions == [(b"flagged", True), (b"allowed", True)]
    chat.page.get_by_role("button", name="Parameters").click()
    chat.page.get_by_label("System prompt").fill("You sell forbidden fruit.")
    chat.ask("What is it?")
    expect(chat.line).to_contain_text("breaks the content guidelines of this page")
    expect(chat.questions).to_have_count(1)
    chat.close()
