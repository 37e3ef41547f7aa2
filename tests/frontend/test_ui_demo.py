"""The chat page with the demo model: the answer is right only if the picture really arrived."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import expect

from broker import channel
from broker.events import Delta, End
from tests.asking import newest
from tests.frontend.chat_page import ANSWERED, ChatPage, chromium
from tests.stack import Stack

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"


def picture_of_a_phone(chat: ChatPage) -> None:
    """Keep how the chat looks on a phone in the dark."""
    wide = chat.page.viewport_size
    assert wide is not None
    chat.page.emulate_media(color_scheme="dark")
    chat.page.set_viewport_size({"width": 360, "height": 740})
    expect(chat.page.locator("body")).to_have_class(re.compile("dark"))
    chat.answers.last.scroll_into_view_if_needed()
    chat.page.screenshot(path=IMAGES / "phone.png", animations="disabled")
    chat.page.emulate_media(color_scheme="light")
    chat.page.set_viewport_size(wide)


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
        events = channel.read_log(demo_stack.redis, newest(demo_stack).id)
        assert len([each for each in events if isinstance(each, Delta | End)]) > 1, "one piece"

        picture_of_a_phone(chat)
        chat.ask("How many shapes are there?")
        expect(chat.answers).to_have_count(2, timeout=60_000)
        chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
        expect(chat.answers.last).to_contain_text("four")
        expect(chat.line).to_contain_text("The model got")
        chat.page.screenshot(path=IMAGES / "chat.png", animations="disabled")

        chat.upload(ROOT / "frontend" / "ui" / "examples" / "five-shapes.png")
        chat.ask("How many shapes are there?")
        expect(chat.answers).to_have_count(3, timeout=60_000)
        chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
        expect(chat.answers.last).to_contain_text("five")
        chat.close()


def test_it_tells_two_pictures_of_one_message_apart_and_what_it_got_of_them(
    demo_stack: Stack,
) -> None:
    examples = ROOT / "frontend" / "ui" / "examples"
    with chromium() as browser:
        chat = ChatPage(browser, demo_stack.ui()).open(model="heliograph-demo")
        chat.set_sliders({"Temperature": 0, "Max input tiles": 8})
        chat.upload(examples / "four-shapes.png", examples / "five-shapes.png")
        chat.ask("How many shapes are in the first picture?")
        chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
        expect(chat.answers).to_have_text("four")
        line = chat.line.inner_text().replace("\n", " · ")
        told = re.search(
            r"The model got (\d+) tokens, (\d+) of them for pictures · picture 1: "
            r"336 x 336 pixels as 5 tiles of 112 x 112, (\d+) tokens · picture 2: "
            r"640 x 480 pixels as (\d) tiles of 112 x 112, (\d+) tokens",
            line,
        )
        assert told, line
        prompt, pictures, first, tiles, second = map(int, told.groups())
        marks = 2  # of where a picture begins and ends
        assert (first, second) == (5 * 16 + marks, tiles * 16 + marks)
        assert prompt > pictures == first + second

        chat.ask("How many shapes are in the second picture?")
        expect(chat.answers).to_have_count(2, timeout=60_000)
        chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
        expect(chat.answers.last).to_have_text("five")
        expect(chat.line).to_contain_text("2 of earlier turns")
        chat.set_slider("Max input tiles", 2)
        chat.button("Regenerate").click()
        expect(chat.line).to_contain_text(f"2 of earlier turns: {2 * (16 + marks)} tokens")

        chat.page.set_viewport_size({"width": 360, "height": 740})
        chat.upload(*[examples / "four-shapes.png"] * 5)
        chat.ask("How many shapes are in the last picture?")
        expect(chat.answers).to_have_count(3, timeout=60_000)
        chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
        expect(chat.line).to_contain_text(f"picture 5: 336 x 336 pixels as 112 x 112, {16 + marks}")
        send = chat.button("Send").bounding_box()
        assert send and send["y"] + send["height"] <= 740
        chat.page.get_by_text("The model got").click()
        expect(chat.page.get_by_text("picture 5:")).to_be_visible()
        chat.close()


def test_the_fleet_page_shows_what_the_worker_did(demo_stack: Stack) -> None:
    with chromium() as browser:
        fleet = ChatPage(browser, demo_stack.ui(), height=700)
        fleet.page.goto(f"{fleet.address}/fleet")
        models = fleet.page.get_by_role("region", name="Models")
        expect(models).to_contain_text("heliograph-demo", timeout=20_000)
        expect(fleet.page.locator("#charts canvas, #charts svg")).to_have_count(3)
        fleet.page.screenshot(path=IMAGES / "fleet.png", animations="disabled")
        fleet.close()
