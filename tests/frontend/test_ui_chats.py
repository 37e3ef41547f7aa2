"""Chats in a real browser: what a reload, a second tab and a second UI process show of them."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, expect

from broker import jobs, keys
from tests.asking import newest
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.frontend.test_ui_page import votes
from tests.stack import Stack, until

WORDS = 250
SPEEDS = {"slow": 25, "slower": 3}  # tokens/s
QUESTION = "one two three four five six seven"


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    """A page over three models: echo answers at once, slow takes 10 s and slower 83 s."""
    for name, speed in SPEEDS.items():
        options = f"tokens_per_s={speed}&tokens={WORDS}"
        echo_stack.echo_worker(options, **{"model-name": name})
    return echo_stack.ui()


@pytest.fixture(scope="module")
def other_address(echo_stack: Stack, address: str) -> str:
    """The page of a second process over the same Redis."""
    return echo_stack.ui()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 32), "orange").save(path)
    return path


def chat_id(tab: ChatPage) -> str:
    """The chat of a tab's address, once it is there."""
    shown = "new URLSearchParams(location.search).get('chat')"
    return str(tab.page.wait_for_function(shown).json_value())


def begin(tab: ChatPage, model: str = "slow") -> str:
    """Ask for an answer of some length, and return the chat when some words are there."""
    tab.open(f"?model={model}", model=model).ask(QUESTION)
    tab.page.wait_for_function("window.seen.length >= 3")
    return chat_id(tab)


def whole() -> str:
    """What the slow model says to the question."""
    return " ".join((QUESTION.split() * WORDS)[:WORDS])


def test_a_reload_in_mid_answer_goes_on_with_it(chat: ChatPage) -> None:
    opened = begin(chat)
    before = chat.seen[-1]
    chat.come_back(opened)
    chat.expect_buttons(*ANSWERED, timeout_ms=30_000)
    expect(chat.answers).to_have_text(whole())
    states = chat.seen
    assert len(states) > 3 and len(states[0]) >= len(before)
    assert all(new.startswith(old) for old, new in pairwise([before, *states]))
    expect(chat.answers).to_have_count(1)
    expect(chat.questions).to_have_text(QUESTION)
    assert chat.model.input_value() == "slow"


def test_an_idle_tab_follows_what_another_one_asks(
    chat: ChatPage, browser: BrowserContext, other_address: str
) -> None:
    opened = begin(chat, "slower")
    chat.button("Stop").click()
    chat.expect_buttons(*ANSWERED)
    idle = ChatPage(browser, other_address).open(f"?chat={opened}", model="slower")
    expect(idle.answers).to_have_text(chat.answers.inner_text())
    chat.ask("and what else")
    expect(idle.questions).to_have_text([QUESTION, "and what else"], timeout=10_000)
    idle.expect_buttons("Stop")
    idle.page.wait_for_function("window.seen.filter((text) => text.startsWith('and')).length >= 3")
    idle.button("Stop").click()
    for tab in (chat, idle):
        tab.expect_buttons(*ANSWERED)
    assert idle.answers.all_inner_texts() == chat.answers.all_inner_texts()
    idle.button("Upvote").click()
    expect(chat.button("Upvote")).to_be_disabled(timeout=10_000)
    idle.close()


def test_a_second_tab_on_a_second_process_shows_the_same_answer_and_may_stop_it(
    chat: ChatPage, browser: BrowserContext, other_address: str, echo_stack: Stack
) -> None:
    chat.listen()
    opened = begin(chat, "slower")
    second = ChatPage(browser, other_address)
    second.come_back(opened)
    second.page.wait_for_function("window.seen.length >= 3")
    second.expect_buttons("Stop")
    second.button("Stop").click()
    for tab in (chat, second):
        tab.expect_buttons(*ANSWERED)
        expect(tab.line).to_contain_text("stopped")
    job = newest(echo_stack)
    assert job.state == "cancelled"
    text = second.answers.inner_text()
    assert chat.answers.inner_text() == text
    assert whole().startswith(text) and len(text) < len(whole())
    assert all(new.startswith(old) for old, new in pairwise(second.seen))
    assert job.request.messages[0].text == QUESTION

    chat.rest()
    second.ask("and on")
    expect(second.questions).to_have_count(2)
    second.button("Stop").click()
    second.expect_buttons("Send", "Regenerate", "Clear", "Upvote", "Downvote", "Flag")
    chat.ask("what the first tab does not know of")
    expect(chat.line).to_contain_text("This chat was changed in another tab.")
    expect(chat.questions).to_have_count(2)
    expect(chat.message).to_have_value("what the first tab does not know of")
    assert newest(echo_stack).request.messages[-1].text == "and on"
    second.close()


def test_an_answer_that_ended_while_nobody_looked_is_there_whole(
    chat: ChatPage, echo_stack: Stack
) -> None:
    opened = begin(chat)
    chat.page.goto("about:blank")
    chat.errors.clear()
    job_id = newest(echo_stack).id
    until(lambda: jobs.read(echo_stack.redis, job_id).state == "done", "it has ended", 60)
    echo_stack.redis.delete(keys.job(job_id))
    chat.open(f"?chat={opened}")
    expect(chat.answers).to_have_text(whole())
    chat.expect_buttons(*ANSWERED)
    expect(chat.line).to_contain_text(f"{WORDS + 1} tokens")


def test_a_vote_is_shown_again_after_a_reload(chat: ChatPage, echo_stack: Stack) -> None:
    chat.open(model="echo").ask("Is this good?")
    chat.expect_buttons(*ANSWERED)
    chat.button("Downvote").click()
    chat.expect_buttons("Send", "Regenerate", "Clear")
    chat.open(f"?chat={chat_id(chat)}")
    expect(chat.line).to_contain_text("you voted it down")
    chat.expect_buttons("Send", "Regenerate", "Clear")
    assert "vote\ndownvote\n" in votes(echo_stack)


def test_an_edited_question_is_asked_again_and_what_came_after_it_goes(
    chat: ChatPage, echo_stack: Stack
) -> None:
    chat.open(model="echo")
    for n, question in enumerate(("a <b> one", "two"), 1):
        chat.ask(question)
        expect(chat.answers).to_have_count(n)
        chat.expect_buttons(*ANSWERED)
    chat.page.locator("#chat").get_by_label("Edit").first.click()
    box = chat.page.locator("#chat textarea")
    expect(box).to_have_value("a &lt;b> one")
    box.fill("a &lt;b> three")
    chat.page.locator("#chat").get_by_label("Submit").click()
    expect(chat.answers).to_have_count(1)
    expect(chat.answers).to_have_text("a <b> three")
    expect(chat.questions).to_have_text("a <b> three")
    chat.expect_buttons(*ANSWERED)
    (message,) = newest(echo_stack).request.messages
    assert message.text == "a <b> three"


def test_retry_asks_again_and_undo_gives_the_words_back(chat: ChatPage, echo_stack: Stack) -> None:
    chat.open(model="echo")
    for n, question in enumerate(("one", "two"), 1):
        chat.ask(question)
        expect(chat.answers).to_have_count(n)
        chat.expect_buttons(*ANSWERED)
    before, states = newest(echo_stack).request, len(chat.seen)
    chat.page.locator("#chat").get_by_label("Retry").last.click()
    until(lambda: newest(echo_stack).id != before.id, "it is asked again")
    until(lambda: chat.seen[states:] == ["one", "two"], "the answer goes, and comes again")
    chat.expect_buttons(*ANSWERED)
    expect(chat.answers).to_have_count(2)
    assert newest(echo_stack).request.messages == before.messages

    chat.page.locator("#chat").get_by_label("Undo").last.click()
    expect(chat.message).to_have_value("two")
    expect(chat.questions).to_have_text("one")
    chat.open(f"?chat={chat_id(chat)}")
    expect(chat.questions).to_have_text("one")


def test_chats_are_found_renamed_and_deleted(chat: ChatPage) -> None:
    for question in ("About ships", "About <b>whales</b>"):
        chat.open(model="echo").ask(question)
        chat.expect_buttons(*ANSWERED)
    entries = chat.page.get_by_role("navigation", name="Chats").get_by_role("link")
    current = chat.page.locator("#chat-list [aria-current]")
    expect(current).to_have_text("About <b>whales</b>")
    search = chat.page.get_by_label("Search chats")
    search.fill("SHIPS about")
    expect(entries).to_have_text(["About ships"])
    search.fill("nothing like it")
    expect(chat.page.locator("#chat-list")).to_contain_text("No title has these words.")
    search.fill("ships")
    entries.first.focus()
    chat.page.keyboard.press("Enter")
    expect(chat.questions).to_have_text("About ships")
    expect(current).to_have_text("About ships")

    chat.page.get_by_role("button", name="This chat").click()
    title = chat.page.get_by_label("Title", exact=True)
    expect(title).to_have_value("About ships")
    title.fill("  Boats & <ships> ")
    title.press("Enter")
    expect(current).to_have_text("Boats & <ships>")

    chat.button("Delete").click()
    chat.button("Keep").click()
    expect(chat.button("Delete for good")).to_be_hidden()
    chat.button("Delete").click()
    chat.button("Delete for good").click()
    expect(chat.questions).to_have_count(0)
    expect(chat.page.locator("#chat-list")).not_to_contain_text("Boats")
    chat.page.wait_for_function("!location.search.includes('chat=')")
    chat.errors.clear()  # of the connections that the list's link broke off


def test_another_browser_sees_a_chat_only_by_its_link(chat: ChatPage, address: str) -> None:
    chat.open(model="echo").ask("A secret")
    chat.expect_buttons(*ANSWERED)
    opened = chat_id(chat)
    chat.page.get_by_role("button", name="This chat").click()
    chat.button("Share").click()
    box = chat.page.locator("#share-link textarea")
    link = until(lambda: box.input_value() if box.is_visible() else "", "there is a link")
    assert link.startswith(f"{address}/?share=")

    context = chat.page.context.browser
    assert context is not None
    elsewhere = context.new_context()
    stranger = ChatPage(elsewhere, address)
    stranger.open(f"?chat={opened}")
    expect(stranger.line).to_contain_text("belongs to another browser")
    expect(stranger.questions).to_have_count(0)
    assert stranger.page.request.get(f"{address}/chats/{opened}.json").status == 404

    stranger.page.goto(link)
    expect(stranger.answers).to_have_text("A secret")
    expect(stranger.line).to_contain_text("read-only")
    for name in ("Send", "Regenerate", "Upvote", "Edit", "Retry", "Undo", "Delete"):
        expect(stranger.button(name)).to_be_hidden()
    chat.button("Stop sharing").click()
    expect(box).to_be_hidden()
    stranger.page.goto(link)
    expect(stranger.line).to_contain_text("This link shows no chat")
    stranger.errors.clear()
    stranger.close()
    elsewhere.close()


def test_the_cookie_is_the_servers_own_and_a_chat_is_exported(
    chat: ChatPage, address: str, picture: Path
) -> None:
    chat.open(model="echo").upload(picture)
    chat.ask("Größe: <b> a/b?")
    expect(chat.answers).to_have_count(1)
    chat.expect_buttons(*ANSWERED)
    (cookie,) = chat.page.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Lax" and not cookie["secure"]
    assert chat.page.evaluate("document.cookie") == ""

    at = f"{address}/chats/{chat_id(chat)}"
    sha256 = hashlib.sha256(picture.read_bytes()).hexdigest()
    reply = chat.page.request.get(f"{at}.md")
    name = "filename*=UTF-8''Gr%C3%B6%C3%9Fe%20b%20a%20b.md"
    assert reply.headers["content-disposition"] == f"attachment; {name}"
    assert reply.text() == (
        "# Größe: &lt;b> a/b?\n\n## You\n\n"
        f"![picture](<{address}/pictures/{sha256}>)\n\nGröße: &lt;b> a/b?\n\n"
        f"## echo\n\n[image {sha256[:8]}] Größe: &lt;b> a/b?\n"
    )
    record = chat.page.request.get(f"{at}.json").json()
    assert (record["format"], record["title"]) == ("heliograph-chat/1", "Größe: <b> a/b?")
    (turn,) = record["turns"]
    assert turn["question"] == {
        "text": "Größe: <b> a/b?",
        "images": [{"sha256": sha256, "url": f"{address}/pictures/{sha256}"}],
    }
    answer = turn["answer"]
    assert (answer["text"], answer["model"], answer["finish_reason"], answer["vote"]) == (
        f"[image {sha256[:8]}] Größe: <b> a/b?",
        "echo",
        "stop",
        None,
    )
    assert answer["parameters"]["temperature"] == 0.2
    assert answer["worker"] and answer["usage"]["completion_tokens"] > 0
    assert chat.page.request.get(f"{at}.exe").status == 404


def test_a_phone_of_360_pixels_has_room_for_the_panels(
    browser: BrowserContext, address: str
) -> None:
    phone = ChatPage(browser, address, width=360, height=740).open(model="echo")
    phone.ask("A title without end " + "w" * 200)
    phone.expect_buttons(*ANSWERED)
    phone.page.get_by_role("button", name="This chat").click()
    expect(phone.button("Delete")).to_be_visible()
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 360
    entries = phone.page.get_by_role("navigation", name="Chats").get_by_role("link")
    expect(entries.first).to_be_visible()
    phone.page.get_by_role("button", name="Chats").click()
    expect(entries.first).to_be_hidden()
    phone.close()
