"""A still of the camera goes into a message; Chromium's moving picture stands for a camera."""

from __future__ import annotations

import io
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, expect

from broker import images
from tests.asking import newest
from tests.frontend.battle_tab import AFTER, VOTES, BattleTab
from tests.frontend.chat_page import ANSWERED, ChatPage, chromium
from tests.frontend.test_ui_flags import framing
from tests.frontend.test_ui_looks import violations
from tests.stack import Stack, until

CAMERA = "--use-fake-device-for-media-stream"
ALLOWED = "--use-fake-ui-for-media-stream"
REFUSED = "--use-fake-ui-for-media-stream=deny"
SIZE = (1280, 720)
UPLOAD = " Or upload a picture instead."

# What the page gets of the camera, in `window.tracks`.
_NOTE_TRACKS = """
window.tracks = [];
if (navigator.mediaDevices) {
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = await ask(wanted);
    window.tracks.push(...stream.getTracks());
    return stream;
  };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    with chromium(CAMERA, ALLOWED) as started:
        started.add_init_script(_NOTE_TRACKS)
        yield started


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    echo_stack.echo_worker(**{"model-name": "other"})
    return echo_stack.ui()


def states(chat: ChatPage) -> list[str]:
    """Of each track that the page got: `live` or `ended`."""
    found: list[str] = chat.page.evaluate("window.tracks.map((track) => track.readyState)")
    return found


def take(chat: ChatPage) -> None:
    chat.button("Camera").click()
    chat.button("Take picture").click()
    expect(chat.page.get_by_role("dialog")).to_have_count(0)


def expect_still(stack: Stack, sha256: str) -> None:
    """Stored is what Chromium's camera shows: a light green sector and corners on dark green."""
    data = images.get(stack.redis, [sha256])[sha256]
    with Image.open(io.BytesIO(data)) as still:
        assert (still.format, still.size) == ("JPEG", SIZE)
        colours = still.convert("RGB").getcolors(SIZE[0] * SIZE[1]) or []
    dark = sum(count for count, (r, g, b) in colours if r < 30 and 100 < g < 170 and b < 30)
    light = sum(count for count, (r, g, b) in colours if g > 200 and b < 80)
    pixels = SIZE[0] * SIZE[1]
    assert dark > pixels * 0.7, dark / pixels
    assert pixels * 0.01 < light < pixels * 0.25, light / pixels
    assert dark + light > pixels * 0.95


# Playwright has one browser at a time: those with flags of their own come first.
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            (CAMERA, REFUSED),
            "The camera is refused: allow it for this page in the browser's settings.",
        ),
        ((ALLOWED,), "No camera was found: connect one and try again."),
    ],
)
def test_without_a_camera_one_is_told_why(address: str, flags: tuple[str, ...], said: str) -> None:
    with chromium(*flags) as other:
        chat = ChatPage(other, address).open(model="echo")
        chat.button("Camera").click()
        expect(chat.page.get_by_role("dialog").get_by_role("alert")).to_have_text(said + UPLOAD)
        expect(chat.button("Take picture")).to_be_disabled()
        chat.button("Cancel").click()
        expect(chat.page.get_by_role("dialog")).to_have_count(0)
        chat.close()


def test_where_browsers_give_no_camera_there_is_no_button(echo_stack: Stack) -> None:
    """Over plain http from another host; the same page has the button on this one."""
    address = echo_stack.ui()
    with chromium(CAMERA, ALLOWED, "--host-resolver-rules=MAP page.test 127.0.0.1") as other:
        for host, is_there in (("127.0.0.1", True), ("page.test", False)):
            chat = ChatPage(other, address.replace("127.0.0.1", host)).open(model="echo")
            expect(chat.limits).to_contain_text("Up to 16 pictures")
            expect(chat.button("Camera")).to_be_visible(visible=is_there)
            chat.close()


def test_a_still_is_sent_and_the_camera_is_off_again(
    browser: BrowserContext, address: str, echo_stack: Stack
) -> None:
    chat = ChatPage(browser, address).open(model="echo")
    chat.button("Camera").click()
    expect(chat.button("Take picture")).to_be_focused()
    assert states(chat) == ["live"]
    assert chat.page.locator("video").evaluate("(v) => [v.videoWidth, v.videoHeight]") == [*SIZE]
    assert violations(chat.page) == []
    chat.page.keyboard.press("Enter")
    expect(chat.attached).to_have_count(1)
    assert states(chat) == ["ended"]
    expect(chat.button("Camera")).to_be_focused()
    take(chat)
    expect(chat.attached).to_have_count(2)
    assert states(chat) == ["ended", "ended"]
    chat.ask("What is this?")
    chat.expect_buttons(*ANSWERED)
    (question,) = newest(echo_stack).request.messages
    assert len(question.images) == 2
    for sha256 in question.images:
        expect_still(echo_stack, sha256)
    chat.close()


def test_cancel_and_escape_turn_the_camera_off_and_add_nothing(
    browser: BrowserContext, address: str
) -> None:
    chat = ChatPage(browser, address).open(model="echo")
    for place, leave in enumerate(("Enter", "Escape"), 1):
        chat.button("Camera").press("Enter")
        expect(chat.button("Take picture")).to_be_focused()
        chat.page.keyboard.press("Tab")
        expect(chat.button("Cancel")).to_be_focused()
        chat.page.keyboard.press(leave)
        expect(chat.page.get_by_role("dialog")).to_have_count(0)
        expect(chat.button("Camera")).to_be_focused()
        until(lambda ended=place: states(chat) == ["ended"] * ended, "the camera is off", 2)
    expect(chat.attached).to_have_count(0)
    chat.close()


def test_both_models_of_a_battle_get_the_still(
    browser: BrowserContext, address: str, echo_stack: Stack
) -> None:
    battle = BattleTab(browser, address)
    for count in (1, 2):
        take(battle)
        expect(battle.page.locator("#pictures tr.file")).to_have_count(count)
    battle.ask("What is this?")
    battle.expect_enabled(*AFTER, *VOTES)
    (question,) = newest(echo_stack).request.messages
    assert len(question.images) == 2
    expect_still(echo_stack, question.images[1])
    assert states(battle) == ["ended", "ended"]
    battle.close()


@pytest.mark.parametrize("width", [1280, 360])
def test_the_view_of_the_camera_fits_the_window(
    browser: BrowserContext, address: str, width: int
) -> None:
    chat = ChatPage(browser, address, width=width, height=560).open(model="echo")
    chat.button("Camera").click()
    expect(chat.button("Take picture")).to_be_enabled()
    for part in (chat.page.locator("video"), chat.button("Take picture"), chat.button("Cancel")):
        box = part.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width, box
        assert box["y"] >= 0 and box["y"] + box["height"] <= 560, box
    assert chat.page.evaluate("document.documentElement.scrollWidth") == width
    chat.close()


def test_a_frame_has_the_camera_only_if_the_page_around_allows_it(
    browser: BrowserContext, echo_stack: Stack
) -> None:
    address = echo_stack.ui("--embed")
    for allow in ("", "camera"):
        with framing(echo_stack.folder, address, allow) as site:
            page = browser.new_page()
            page.goto(site)
            frame = page.frame_locator("iframe")
            expect(frame.locator("#limits")).to_contain_text("Up to 16 pictures")
            expect(frame.get_by_role("button", name="Camera")).to_be_visible(visible=bool(allow))
            page.close()
    with urlopen(address) as reply:
        assert reply.headers["Permissions-Policy"].split(", ")[0] == "camera=(self)"
