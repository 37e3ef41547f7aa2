"""Boxes in answers, on the page: drawn on the right picture, to look at and to keep."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import BrowserContext, expect

from frontend.ui.overlay import COLOURS
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack

ANSWER = "Here: <ref>the spot</ref><box>[[250, 250, 750, 750]]</box> it is <box>[[1,2,3"
"""The last box is never finished, so it is no box."""


def grey(path: Path) -> Path:
    Image.new("RGB", (400, 400), (200, 200, 200)).save(path)
    return path


def test_boxes_are_drawn_on_the_picture_and_can_be_kept(
    stack: Stack, browser: BrowserContext, tmp_path: Path
) -> None:
    stack.echo_worker("tokens_per_s=10")
    address = stack.ui()
    chat = ChatPage(browser, address).open(model="echo")
    chat.upload(grey(tmp_path / "grey.png"))
    chat.ask(ANSWER)
    chat.expect_buttons(*ANSWERED, timeout_ms=20_000)
    answer = chat.answers.last
    expect(answer).to_contain_text("Here: the spot it is <box>[[1,2,3")
    assert not any("[[250" in state or "<ref" in state for state in chat.seen), chat.seen
    expect(chat.questions.last).to_contain_text("<ref>the spot</ref>")  # what was asked stays
    boxes = answer.get_by_alt_text("boxes")
    expect(boxes).to_be_visible()
    loaded = "image => image.complete && image.naturalWidth"
    assert boxes.evaluate(loaded) == 400
    image = Image.open(io.BytesIO(httpx.get(f"{address}/{boxes.get_attribute('src')}").content))
    assert [image.getpixel(at) for at in ((101, 200), (299, 200), (200, 299))] == [COLOURS[0]] * 3
    assert image.getpixel((200, 200)) == (200, 200, 200)
    with chat.page.expect_download() as download:
        answer.get_by_role("link", name="Save this picture").click()
    assert download.value.suggested_filename == "boxes.png"
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    chat.open("?" + chat.page.url.partition("?")[2])
    expect(chat.answers.last.get_by_alt_text("boxes")).to_be_visible(timeout=20_000)
    chat.close()


def test_addresses_that_nobody_gave_out_are_refused(stack: Stack) -> None:
    address = stack.ui()
    box = "<box>[[1,2,3,4]]</box>"
    for query, status in (
        ({"regions": box}, 404),
        ({"regions": "<box>[[4,3,2,1]]</box>"}, 400),
        ({"regions": "__import__('os')"}, 400),
        ({}, 400),
        ({"regions": box, "mode": "Stretch"}, 400),
    ):
        reply = httpx.get(f"{address}/overlays/{64 * 'a'}.png", params=query)
        assert reply.status_code == status, (query, reply.text)
