"""Pictures that answers ask for: made once by a drawing worker, shown, kept; failures are told."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, expect

from frontend.drawings import captions
from tests.asking import newest
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.scripted import Exchange, Scripted, scripted
from tests.stack import Stack

PATH = "/generate_image/"
BLOCK = "```drawing-instruction\na red boat\n```"


def picture(colour: str, side: int = 96) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def paint(exchange: Exchange) -> None:
    """Answer with a picture of the caption's second word."""
    exchange.reply(200, picture(exchange.body["caption"].split()[1]))


@pytest.fixture(scope="module")
def worker() -> Iterator[Scripted]:
    with scripted({}) as made:
        yield made


@pytest.fixture
def drawer(worker: Scripted) -> Scripted:
    """The drawing worker, which works and has not been asked yet."""
    worker.answers[PATH] = paint
    worker.seen.clear()
    return worker


@pytest.fixture(scope="module")
def address(echo_stack: Stack, worker: Scripted) -> str:
    echo_stack.echo_worker()
    settings = {"HELIOGRAPH_DRAWING_URL": worker.url, "HELIOGRAPH_DRAWING_TIMEOUT_S": "2"}
    return echo_stack.ui(**settings)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (f"Here it is:\n{BLOCK}\nDone.", ["a red boat"]),
        ("```drawing-instruction\na\n```\n```drawing-instruction \nb\nc\n```", ["a", "b\nc"]),
        ("```drawing-instruction\n \n```", []),
        ("```drawing-instruction\nhalf", []),
        ("```python\nx\n```", []),
        ("words ```drawing-instruction``` words", []),
        ((BLOCK + "\n") * 6, ["a red boat"] * 4),
    ],
)
def test_what_an_answer_wants_drawn(answer: str, wanted: list[str]) -> None:
    assert captions(answer) == wanted


def ask(chat: ChatPage) -> None:
    """Have the model say what is to be drawn; Enter would send the first line alone."""
    chat.open(model="echo")
    chat.message.fill(BLOCK)
    chat.button("Send").click()
    chat.expect_buttons(*ANSWERED)


def test_a_picture_is_made_once_and_stays(
    chat: ChatPage, browser: BrowserContext, address: str, echo_stack: Stack, drawer: Scripted
) -> None:
    ask(chat)
    shown = chat.answers.get_by_role("img", name="drawing")
    expect(shown).to_have_js_property("naturalWidth", 96)
    assert [each.body for each in drawer.asked(PATH)] == [{"caption": "a red boat"}]
    job = newest(echo_stack).id
    drawer.answers.clear()  # it is gone
    data = httpx.get(f"{address}/drawings/{job}/0.png")
    assert (data.status_code, data.headers["Content-Type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(data.content)).getpixel((5, 5)) == (255, 0, 0)
    second = ChatPage(browser, echo_stack.ui())
    opened = chat.page.evaluate("new URLSearchParams(location.search).get('chat')")
    second.page.goto(f"{second.address}/?chat={opened}")
    shown = second.answers.get_by_role("img", name="drawing")
    expect(shown).to_have_js_property("naturalWidth", 96)
    second.close()
    assert len(drawer.seen) == 1
    assert httpx.get(f"{address}/drawings/{job}/1.png").status_code == 404
    chat.page.get_by_role("button", name="This chat").click()
    chat.button("Delete").click()
    chat.button("Delete for good").click()
    expect(chat.answers).to_have_count(0)
    forgotten = httpx.get(f"{address}/drawings/{job}/0.png")
    assert forgotten.status_code == 502, "it would have to be made anew"
    assert httpx.get(f"{address}/drawings/unknown/0.png").status_code == 404


def test_of_many_who_look_one_has_it_made(
    chat: ChatPage, address: str, echo_stack: Stack, drawer: Scripted
) -> None:
    drawer.answers[PATH] = lambda exchange: exchange.reply(500, {})
    ask(chat)
    chat.page.wait_for_function("document.querySelector('#chat img[alt=drawing]').complete")
    looked, go_on = threading.Event(), threading.Event()

    def slowly(exchange: Exchange) -> None:
        looked.set()
        go_on.wait(1.5)
        paint(exchange)

    before, drawer.answers[PATH] = len(drawer.seen), slowly
    job = newest(echo_stack).id
    with ThreadPoolExecutor(8) as pool:
        replies = [
            pool.submit(httpx.get, f"{address}/drawings/{job}/0.png", timeout=30) for _ in range(8)
        ]
        assert looked.wait(10)
        go_on.set()
        found = {reply.result().content for reply in replies}
    assert found == {picture("red")}
    assert len(drawer.seen) == before + 1
    chat.errors.clear()  # of the first attempt


def hang(exchange: Exchange) -> None:
    exchange.begin("image/png")
    exchange.left()


@pytest.mark.parametrize(
    "answer",
    [
        lambda exchange: exchange.reply(500, {"detail": "/secret/path"}),
        lambda exchange: exchange.reply(200, b"no picture"),
        lambda exchange: exchange.reply(200, b"\0" * (11 * 2**20)),
        lambda exchange: exchange.reply(307, b"", Location="http://127.0.0.1:1/"),
        hang,
    ],
    ids=["error", "nonsense", "too large", "redirect", "hanging"],
)
def test_what_goes_wrong_is_told_in_a_picture(
    chat: ChatPage, address: str, echo_stack: Stack, drawer: Scripted, answer: object
) -> None:
    drawer.answers[PATH] = answer  # type: ignore[assignment]
    ask(chat)
    shown = chat.answers.get_by_role("img", name="drawing")
    expect(shown).to_have_js_property("naturalWidth", 600)
    failed = httpx.get(f"{address}/drawings/{newest(echo_stack).id}/0.png", timeout=30)
    assert (failed.status_code, failed.headers["Cache-Control"]) == (502, "no-store")
    drawer.answers[PATH] = paint
    made = httpx.get(f"{address}/drawings/{newest(echo_stack).id}/0.png", timeout=30)
    assert (made.status_code, made.content) == (200, picture("red"))
    assert "Traceback" not in "".join(process.output for process in echo_stack.processes)
    chat.errors.clear()  # the browser's own about the status


def test_without_a_drawing_worker_the_picture_says_so(chat: ChatPage, echo_stack: Stack) -> None:
    chat.address = echo_stack.ui()
    ask(chat)
    shown = chat.answers.get_by_role("img", name="drawing")
    expect(shown).to_have_js_property("naturalWidth", 600)
    chat.errors.clear()
