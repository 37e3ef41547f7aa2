"""Files that are too large are refused with the service's sentence, before they are uploaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, expect

from broker.errors import RequestTooLarge
from frontend import pictures
from tests.frontend.battle_tab import AFTER, VOTES, BattleTab
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.frontend.test_ui_pictures import painted, words
from tests.stack import Stack

LIMIT = 100 * 1024
HUGE = 40 * 2**20
"""Bytes that Gradio's own limit, which is of the longest body, would refuse too."""
REFUSED = (
    "The image has {:,} bytes; at most 102,400 are accepted. Send a smaller or more compressed one."
)

# Drops or pastes files of these names and numbers of bytes.
_GIVE = """([target, type, files]) => {
  const transfer = new DataTransfer();
  for (const [name, bytes] of files)
    transfer.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));
  const carried = {bubbles: true, dataTransfer: transfer, clipboardData: transfer};
  const kind = type === 'paste' ? ClipboardEvent : DragEvent;
  document.querySelector(target).dispatchEvent(new kind(type, carried));
}"""


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    echo_stack.echo_worker(**{"model-name": "other"})
    return echo_stack.ui(HELIOGRAPH_MAX_IMAGE_BYTES=str(LIMIT))


def large(folder: Path, name: str, count: int) -> Path:
    """A file of so many bytes."""
    path = folder / name
    with path.open("wb") as file:
        file.truncate(count)
    return path


def uploads(chat: ChatPage) -> list[str]:
    """The uploads that the tab makes from now on."""
    made: list[str] = []
    chat.page.on("request", lambda one: made.append(one.url) if "/upload?" in one.url else None)
    return made


def expect_refused(chat: ChatPage, name: str, count: int) -> None:
    alert = chat.page.locator("#oversize").get_by_role("alert")
    expect(alert).to_be_visible()
    expect(alert).to_have_text(f"{name}: {REFUSED.format(count)}")
    expect(chat.page.get_by_test_id("toast-body")).to_have_count(0)


def test_the_service_says_the_same() -> None:
    with pytest.raises(RequestTooLarge) as refused:
        pictures.check(bytes(LIMIT + 1), max_bytes=LIMIT, max_pixels=1)
    assert str(refused.value) == REFUSED.format(LIMIT + 1)


def test_a_chosen_file_is_refused_and_the_others_stay(
    browser: BrowserContext, address: str, tmp_path: Path
) -> None:
    chat = ChatPage(browser, address).open(model="echo")
    made = uploads(chat)
    chooser = chat.page.locator("#message input[type=file]")
    for count in (LIMIT + 1, HUGE):
        chooser.set_input_files(large(tmp_path, "large.png", count))
        expect_refused(chat, "large.png", count)
    assert made == []
    (good,) = painted(tmp_path, "orange")
    chooser.set_input_files([large(tmp_path, "large.png", HUGE), good])
    expect(chat.attached).to_have_count(1)
    expect_refused(chat, "large.png", HUGE)
    assert len(made) == 1
    chat.ask("the good one")
    expect(chat.answers).to_have_text(f"{words(good)} the good one")
    chat.expect_buttons(*ANSWERED)
    expect(chat.page.locator("#oversize")).to_be_hidden()
    exact = tmp_path / "exact.png"
    Image.new("RGB", (8, 8)).save(exact)
    with exact.open("ab") as file:
        file.truncate(LIMIT)
    chat.upload(exact)
    chat.ask("as large as may be")
    expect(chat.answers.last).to_have_text(f"{words(exact)} as large as may be")
    chat.close()


@pytest.mark.parametrize(
    ("target", "event"),
    [("#message [role=group]", "drop"), ("#chat", "drop"), ("#message textarea", "paste")],
)
def test_what_is_dropped_or_pasted_is_refused_too(
    browser: BrowserContext, address: str, target: str, event: str
) -> None:
    chat = ChatPage(browser, address).open(model="echo")
    made = uploads(chat)
    chat.page.evaluate(_GIVE, [target, event, [["a.png", HUGE]]])
    expect_refused(chat, "a.png", HUGE)
    expect(chat.attached).to_have_count(0)
    assert made == []
    chat.page.evaluate(_GIVE, [target, event, [["a.png", 9], ["b.png", LIMIT + 1], ["c.png", 9]]])
    expect(chat.attached).to_have_count(2)
    expect_refused(chat, "b.png", LIMIT + 1)
    chat.close()


def test_in_a_battle(browser: BrowserContext, address: str, tmp_path: Path) -> None:
    battle = BattleTab(browser, address)
    made = uploads(battle)
    chooser = battle.page.locator("#pictures input[type=file]")
    chooser.set_input_files(large(tmp_path, "large.png", HUGE))
    expect_refused(battle, "large.png", HUGE)
    assert made == []
    (good,) = painted(tmp_path, "orange")
    chooser.set_input_files([good, large(tmp_path, "large.png", LIMIT + 1)])
    expect(battle.page.locator("#pictures tr.file")).to_have_count(1)
    expect_refused(battle, "large.png", LIMIT + 1)
    battle.ask("the good one")
    expect(battle.answers_of("left")).to_have_text(f"{words(good)} the good one")
    battle.expect_enabled(*AFTER, *VOTES)
    expect(battle.page.locator("#oversize")).to_be_hidden()
    battle.close()
