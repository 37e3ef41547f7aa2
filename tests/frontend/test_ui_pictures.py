"""Several pictures in a message of the chat page: how they get there, what may be sent, by whom."""

from __future__ import annotations

import base64
import hashlib
import signal
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, expect

from broker import keys, registry
from tests.asking import newest
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.frontend.test_ui_chats import chat_id
from tests.stack import Stack, until
from tests.workers import checkpoints

LIMITS = {"HELIOGRAPH_MAX_IMAGES": "3", "HELIOGRAPH_MAX_IMAGE_BYTES": str(100 * 1024)}
MAY_SEND = "pictures in this chat, each up to 100 KB and 25 million pixels: JPEG, PNG, WEBP, GIF"


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    """A page over two models: echo answers about pictures, text-only takes none."""
    echo_stack.echo_worker("images=0", **{"model-name": "text-only"})
    return echo_stack.ui()


@pytest.fixture(scope="module")
def narrow(echo_stack: Stack, address: str) -> str:
    """A page that takes three small pictures a chat."""
    return echo_stack.ui(**LIMITS)


def painted(folder: Path, *colours: str) -> list[Path]:
    """A picture in each of these colours."""
    paths = [folder / f"{colour}.png" for colour in colours]
    for path in paths:
        Image.new("RGB", (64, 48), path.stem).save(path)
    return paths


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def words(*paths: Path) -> str:
    """What the echo engine says for pictures."""
    return " ".join(f"[image {sha256(path)[:8]}]" for path in paths)


def shown(chat: ChatPage) -> list[str]:
    """The addresses of the pictures of the last question."""
    images = chat.questions.last.locator("img").all()
    return [(image.get_attribute("src") or "").rpartition("/")[2] for image in images]


def give(chat: ChatPage, event: str, *paths: Path, target: str) -> None:
    """Drop files on a part of the page."""
    files = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in paths]
    transfer = chat.page.evaluate_handle(
        """async (files) => {
          const transfer = new DataTransfer();
          for (const [name, data] of files) {
            const bytes = await (await fetch('data:image/png;base64,' + data)).blob();
            transfer.items.add(new File([bytes], name, {type: 'image/png'}));
          }
          return transfer;
        }""",
        files,
    )
    chat.page.locator(target).dispatch_event(event, {"dataTransfer": transfer})


def test_two_chosen_pictures_are_sent_in_order_and_shown_by_address(
    chat: ChatPage, echo_stack: Stack, tmp_path: Path
) -> None:
    chat.listen()
    first, second, third = painted(tmp_path, "orange", "blue", "green")
    chat.open(model="echo").upload(first, second)
    expect(chat.limits).to_have_text(
        "Up to 16 pictures in this chat, each up to 10 MB and 25 million pixels: "
        "JPEG, PNG, WEBP, GIF"
    )
    chat.ask("Which is which?")
    chat.expect_buttons(*ANSWERED)
    expect(chat.answers).to_have_text(f"{words(first, second)} Which is which?")
    assert shown(chat) == [sha256(first), sha256(second)]
    expect(chat.attached).to_have_count(0)
    expect(chat.limits).to_contain_text("14 more pictures in this chat")

    chat.upload(third)
    chat.ask("And this?")
    expect(chat.answers).to_have_count(2)
    chat.expect_buttons(*ANSWERED)
    messages = newest(echo_stack).request.messages
    assert [message.images for message in messages] == [
        (sha256(first), sha256(second)),
        (),
        (sha256(third),),
    ]
    expect(chat.limits).to_contain_text("13 more pictures in this chat")
    told = chat.received()
    assert sha256(first) in told
    assert "data:image" not in told and ";base64," not in told
    for path in (first, second, third):
        assert base64.b64encode(path.read_bytes()).decode()[:64] not in told
    addresses = chat.page.eval_on_selector_all("img", "images => images.map((each) => each.src)")
    assert addresses and all(each.startswith(chat.address) for each in addresses)

    chat.open(f"?chat={chat_id(chat)}")
    expect(chat.answers).to_have_count(2)
    expect(chat.questions.first.locator("img")).to_have_count(2)
    assert shown(chat) == [sha256(third)]
    expect(chat.limits).to_contain_text("13 more pictures in this chat")


def test_pictures_are_dropped_on_the_box_or_beside_it(chat: ChatPage, tmp_path: Path) -> None:
    paths = painted(tmp_path, "orange", "blue", "green")
    chat.open(model="echo")
    give(chat, "drop", *paths[:2], target="#message [role=group]")
    expect(chat.attached).to_have_count(2)
    give(chat, "drop", paths[2], target="#chat")
    expect(chat.attached).to_have_count(3)
    chat.ask("dropped")
    expect(chat.answers).to_have_text(f"{words(*paths)} dropped")


def test_a_picture_is_pasted_and_a_long_text_stays_text(
    chat: ChatPage, echo_stack: Stack, tmp_path: Path
) -> None:
    (path,) = painted(tmp_path, "orange")
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.open(model="echo").message.focus()
    data = base64.b64encode(path.read_bytes()).decode()
    chat.page.evaluate(
        """async (data) => {
          const picture = await (await fetch('data:image/png;base64,' + data)).blob();
          await navigator.clipboard.write([new ClipboardItem({'image/png': picture})]);
        }""",
        data,
    )
    chat.page.keyboard.press("Control+V")
    expect(chat.attached).to_have_count(1)
    chat.page.keyboard.press("Control+V")
    expect(chat.attached).to_have_count(2)
    text = "a long text " * 500
    chat.page.evaluate("text => navigator.clipboard.writeText(text)", text)
    chat.page.keyboard.press("Control+V")
    expect(chat.message).to_have_value(text)
    expect(chat.attached).to_have_count(2)
    chat.message.fill("pasted")
    chat.message.press("Shift+Enter")
    chat.page.keyboard.type("twice")
    chat.message.press("Enter")
    chat.expect_buttons(*ANSWERED)
    (question,) = newest(echo_stack).request.messages
    assert question.text == "pasted\ntwice"
    assert len(question.images) == 2


def test_a_picture_is_removed_before_sending(chat: ChatPage, tmp_path: Path) -> None:
    paths = painted(tmp_path, "orange", "blue", "green")
    chat.open(model="echo").upload(*paths)
    chat.remove(2)
    chat.ask("two are left")
    expect(chat.answers).to_have_text(f"{words(paths[0], paths[2])} two are left")


def test_undo_gives_words_and_pictures_back_and_an_edit_keeps_them(
    chat: ChatPage, echo_stack: Stack, tmp_path: Path
) -> None:
    first, second, third = painted(tmp_path, "orange", "blue", "green")
    chat.open(model="echo").upload(first, second)
    chat.ask("one")
    chat.expect_buttons(*ANSWERED)
    chat.page.locator("#chat").get_by_label("Edit").first.click()
    box = chat.page.locator("#chat textarea")
    box.fill(box.input_value().replace("one", "two"))
    chat.page.locator("#chat").get_by_label("Submit").click()
    expect(chat.answers).to_have_text(f"{words(first, second)} two")
    chat.expect_buttons(*ANSWERED)

    chat.page.locator("#chat").get_by_label("Undo").last.click()
    expect(chat.message).to_have_value("two")
    expect(chat.attached).to_have_count(2)
    expect(chat.questions).to_have_count(0)
    expect(chat.limits).to_contain_text("Up to 16 pictures")
    widths = "images => images.map((each) => each.naturalWidth)"
    thumbnails = "#message [role=listitem] img"
    until(lambda: chat.page.eval_on_selector_all(thumbnails, widths) == [64, 64], "they are seen")
    chat.remove(1)
    chat.upload(third)
    chat.message.press("Enter")
    expect(chat.answers).to_have_text(f"{words(second, third)} two")
    chat.expect_buttons(*ANSWERED)
    (question,) = newest(echo_stack).request.messages
    assert question.images == (sha256(second), sha256(third))


def test_too_many_pictures_are_refused_and_nothing_is_lost(
    browser: BrowserContext, narrow: str, tmp_path: Path
) -> None:
    chat = ChatPage(browser, narrow).open(model="echo")
    expect(chat.limits).to_have_text(f"Up to 3 {MAY_SEND}")
    paths = painted(tmp_path, "red", "orange", "yellow", "green")
    chat.upload(*paths)
    refused = "A chat may have 3 pictures; here are 4. Remove 1 of them, or begin a new chat."
    expect(chat.limits.get_by_role("alert")).to_have_text(refused)
    chat.ask("all of them")
    expect(chat.line.get_by_role("alert")).to_have_text(refused)
    expect(chat.message).to_have_value("all of them")
    expect(chat.attached).to_have_count(4)
    expect(chat.questions).to_have_count(0)
    for _ in range(2):
        chat.remove(1)
    expect(chat.limits).to_have_text(f"Up to 3 {MAY_SEND}")
    chat.message.press("Enter")
    expect(chat.answers).to_have_text(f"{words(*paths[2:])} all of them")
    chat.expect_buttons(*ANSWERED)
    expect(chat.limits).to_have_text(f"1 more {MAY_SEND}".replace("pictures", "picture", 1))
    chat.upload(*paths[:2])
    expect(chat.limits.get_by_role("alert")).to_have_text(
        "A chat may have 3 pictures; this chat has 2 and the message 2. "
        "Remove 1 of them, or begin a new chat."
    )
    chat.remove(2)
    chat.ask("one more")
    expect(chat.answers).to_have_count(2)
    chat.expect_buttons(*ANSWERED)
    expect(chat.limits).to_have_text(
        "This chat has 3 pictures, which is the limit. Clear begins a new one."
    )
    chat.close()


def test_too_many_pixels_or_no_picture_is_refused_by_name(
    browser: BrowserContext, narrow: str, tmp_path: Path
) -> None:
    (good,) = painted(tmp_path, "orange")
    wide = tmp_path / "wide.png"
    Image.new("1", (6000, 5000)).save(wide)
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    chat = ChatPage(browser, narrow).open(model="echo")
    chat.upload(good, wide, text)
    alert = chat.limits.get_by_role("alert")
    expect(alert).to_have_text(
        "wide.png: The image has 6000 x 5000 pixels; at most 25,000,000 in all and 16,384 a side "
        "are accepted. Scale it down."
    )
    chat.remove(2)
    expect(alert).to_have_text(
        "notes.txt: The image cannot be read: it is damaged, or not one of JPEG, PNG, WEBP, GIF."
    )
    chat.remove(2)
    expect(alert).to_have_count(0)
    chat.ask("the good one")
    expect(chat.answers).to_have_text(f"{words(good)} the good one")
    chat.close()


def test_a_model_without_eyes_says_so_as_soon_as_it_is_chosen(
    chat: ChatPage, tmp_path: Path
) -> None:
    paths = painted(tmp_path, "orange")
    chat.open("?model=text-only", model="text-only")
    expect(chat.limits).to_have_text("text-only reads text only: it takes no pictures.")
    chat.upload(*paths)
    refused = "text-only reads text only. Remove the pictures, or choose another model."
    expect(chat.limits.get_by_role("alert")).to_have_text(refused)
    chat.ask("What is it?")
    expect(chat.line.get_by_role("alert")).to_have_text(refused)
    expect(chat.message).to_have_value("What is it?")
    expect(chat.attached).to_have_count(1)
    chat.model.click()
    chat.page.get_by_role("option", name="echo", exact=True).click()
    expect(chat.limits).to_contain_text("Up to 16 pictures")
    chat.message.press("Enter")
    expect(chat.answers).to_have_text(f"{words(*paths)} What is it?")


def test_what_may_be_sent_is_told_when_a_model_has_loaded(
    browser: BrowserContext, stack: Stack, tmp_path: Path
) -> None:
    path = checkpoints.save_text_model(tmp_path / "llama", "llama")
    worker = stack.worker("--model-path", str(path), "--model-name", "reader", wait=False)
    (loading,) = until(lambda: registry.workers(stack.redis), "the worker loads")
    worker.signal(signal.SIGSTOP)
    assert loading.state == "loading"
    until(  # what it had sent may still be on its way
        lambda: not stack.redis.persist(keys.worker(loading.id)), "its record stays"
    )
    chat = ChatPage(browser, stack.ui()).open(model="reader")
    expect(chat.limits).to_contain_text("Up to 16 pictures")
    worker.signal(signal.SIGCONT)
    expect(chat.limits).to_have_text(
        "reader reads text only: it takes no pictures.", timeout=90_000
    )
    chat.close()


def test_a_phone_shows_box_and_send_without_scrolling(
    browser: BrowserContext, address: str, tmp_path: Path
) -> None:
    phone = ChatPage(browser, address, width=360, height=740).open(model="echo")

    def visible() -> None:
        for part in (phone.message, phone.button("Send"), phone.button("Stop")):
            box = part.bounding_box()
            assert box and box["y"] >= 0 and box["y"] + box["height"] <= 740, box
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360, box
        assert phone.page.evaluate("[window.scrollY, document.documentElement.scrollWidth]") == [
            0,
            360,
        ]

    visible()
    phone.upload(*painted(tmp_path, "red", "orange", "yellow", "green", "blue", "purple"))
    phone.message.fill("a line\n" * 4)
    visible()
    phone.message.press("Enter")
    phone.expect_buttons(*ANSWERED)
    visible()
    phone.close()
