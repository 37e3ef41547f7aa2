"""Why somebody votes: asked on the page, kept with the vote, shown again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from broker import exports, feedback, keys
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack

VOTED = ("Send", "Regenerate", "Clear")


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    return echo_stack.ui()


@pytest.fixture
def chat(browser: BrowserContext, address: str) -> Iterator[ChatPage]:
    """A page with an answer."""
    tab = ChatPage(browser, address).open(model="echo")
    tab.ask("Is this right?")
    tab.expect_buttons(*ANSWERED)
    yield tab
    tab.close()


def votes(stack: Stack) -> list[tuple[str, str, str]]:
    """Kind, reason and comment of each vote."""
    rows = feedback.tail(stack.redis, 1000)
    return [(row["vote"], row["reason"], row["comment"]) for row in rows]


def question(tab: ChatPage) -> Locator:
    return tab.page.locator("#why")


def reload(tab: ChatPage) -> None:
    tab.page.evaluate("0")
    tab.page.reload()
    expect(tab.answers).to_have_count(1, timeout=20_000)
    tab.errors.clear()  # Gradio logs the connections that a reload breaks off


def test_reasons_and_a_comment_are_told_by_keyboard_and_shown_again(
    chat: ChatPage, echo_stack: Stack
) -> None:
    before = votes(echo_stack)
    expect(question(chat)).to_have_count(0)
    keyboard = chat.page.keyboard
    chat.button("Downvote").focus()
    keyboard.press("Enter")
    expect(question(chat)).to_be_visible()
    chat.expect_buttons(*VOTED)
    assert votes(echo_stack) == [*before, ("downvote", "", "")]
    boxes = question(chat).get_by_role("checkbox")
    assert question(chat).locator("label:has([type=checkbox])").all_inner_texts() == [
        "wrong", "not about the picture", "incomplete", "too long", "not what I asked",
    ]  # fmt: skip
    keyboard.press("Tab")
    expect(boxes.nth(0)).to_be_focused()
    keyboard.press("Space")
    for _ in range(3):
        keyboard.press("Tab")
    keyboard.press("Space")
    expect(boxes.nth(3)).to_be_checked()
    comment = chat.page.get_by_label("Comment", exact=True)
    expect(comment).to_have_attribute("maxlength", "2000")
    expect(comment).to_have_attribute("placeholder", "Comment, up to 2,000 characters")
    keyboard.press("Tab")
    keyboard.press("Tab")
    expect(comment).to_be_focused()
    keyboard.type("<b>No</b> ${6*7}, it is 你好")
    keyboard.press("Enter")
    expect(question(chat)).to_have_count(0)
    told = ("downvote", "wrong, too long", "<b>No</b> ${6*7}, it is 你好")
    assert votes(echo_stack) == [*before, told]
    (line,) = (row for row in exports.everything(echo_stack.redis) if row.get("reason") == told[1])
    assert (line["type"], line["comment"], line["ip"]) == ("downvote", told[2], "127.0.0.1")

    for again in (False, True):
        if again:
            reload(chat)
        said = chat.page.locator("#said p")
        expect(said).to_have_text(["Your reasons: wrong, too long", told[2]])
        expect(chat.line).to_contain_text("you voted it down")
        expect(question(chat)).to_have_count(0)
        chat.expect_buttons(*VOTED)


def test_nobody_has_to_say_why(chat: ChatPage, echo_stack: Stack) -> None:
    before = votes(echo_stack)
    chat.button("Flag").click()
    expect(question(chat)).to_contain_text("private data")
    chat.button("Send feedback").click()
    expect(chat.line).to_have_text("Choose a reason or write a comment, or skip it.")
    chat.button("Skip").click()
    expect(question(chat)).to_have_count(0)
    chat.expect_buttons(*VOTED)
    reload(chat)
    expect(question(chat)).to_contain_text("private data")
    chat.ask("Something else?")
    chat.expect_buttons(*ANSWERED)
    expect(question(chat)).to_have_count(0)
    assert votes(echo_stack) == [*before, ("flag", "", "")]


def test_a_comment_that_is_being_written_stays_when_the_chat_gets_a_title(chat: ChatPage) -> None:
    chat.button("Upvote").click()
    comment = chat.page.get_by_label("Comment", exact=True)
    comment.fill("Half a sen")
    chat.page.get_by_role("button", name="This chat").click()
    title = chat.page.get_by_label("Title", exact=True)
    for words in ("Another title", "And one more"):
        title.fill(words)
        title.press("Enter")
        expect(chat.page.get_by_role("link", name=words)).to_be_visible()
    expect(comment).to_have_value("Half a sen")


def test_each_answer_is_asked_about_anew(chat: ChatPage, echo_stack: Stack) -> None:
    before = votes(echo_stack)
    chat.button("Upvote").click()
    chat.page.get_by_label("clear", exact=True).check()
    chat.button("Send feedback").click()
    expect(chat.page.locator("#said p")).to_have_text(["Your reasons: clear"])
    chat.button("Regenerate").click()
    chat.expect_buttons(*ANSWERED)
    expect(chat.page.locator("#said p")).to_have_count(0)
    chat.button("Upvote").click()
    expect(chat.page.get_by_label("clear", exact=True)).not_to_be_checked()
    chat.page.get_by_label("Comment", exact=True).fill("  Better now  ")
    chat.button("Send feedback").click()
    expect(chat.page.locator("#said p")).to_have_text(["Better now"])
    assert votes(echo_stack) == [*before, ("upvote", "clear", ""), ("upvote", "", "Better now")]


def test_a_vote_whose_job_is_forgotten_stays_as_it_was(chat: ChatPage, echo_stack: Stack) -> None:
    chat.button("Upvote").click()
    expect(question(chat)).to_be_visible()
    before = votes(echo_stack)
    job_id = feedback.tail(echo_stack.redis, 1)[0]["job"]
    echo_stack.redis.delete(keys.job(job_id))
    chat.page.get_by_label("complete", exact=True).check()
    chat.button("Send feedback").click()
    expect(chat.line).to_contain_text(f"Job {job_id} is unknown here, or its record has expired.")
    assert votes(echo_stack) == before


def test_a_phone_shows_the_question_without_scrolling_sideways(
    browser: BrowserContext, address: str
) -> None:
    phone = ChatPage(browser, address, width=360, height=800).open(model="echo")
    phone.ask("On a phone?")
    phone.expect_buttons(*ANSWERED)
    phone.button("Downvote").click()
    for name in ("Send feedback", "Skip"):
        phone.button(name).scroll_into_view_if_needed()
        box = phone.button(name).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 360, name
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 360
    phone.close()
