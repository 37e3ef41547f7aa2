"""The chat page in a real browser, over a real Valkey and echo workers."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import socket
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import APIRequestContext, BrowserContext, Route, expect

from broker import images, keys
from tests.asking import newest, running
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack, until

SLOW = "echo?tokens_per_s=25&tokens=400"


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    """A page over two models: echo answers at once, slow takes 16 s."""
    echo_stack.worker("--engine", "echo", "--model-path", SLOW, "--model-name", "slow")
    return echo_stack.ui()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A JPEG that says it lies on its side: whoever re-encodes it is found out."""
    rotated = Image.Exif()
    rotated[274] = 6
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (64, 32), "orange").save(path, exif=rotated)
    return path


def votes(stack: Stack) -> str:
    """What an operator reads with redis-cli."""
    port = stack.url.rpartition(":")[2].partition("/")[0]
    binary = shutil.which("redis-cli")
    assert binary, "this test reads votes as an operator does: apt-get install redis-tools"
    command = [binary, "-p", port, "XREVRANGE", keys.FEEDBACK_LOG, "+", "-", "COUNT", "1"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_model_of_the_address_is_chosen(chat: ChatPage) -> None:
    chat.open(model="echo")
    chat.open("?model=slow", model="slow")


def test_who_asks_before_the_models_are_there_asks_the_first(chat: ChatPage) -> None:
    held: list[Route] = []
    asked: list[Route] = []

    def hold(route: Route) -> None:
        """Keep from the page what it asks for before the question."""
        if asked or "too early" in (route.request.post_data or ""):
            asked.append(route)
            route.continue_()
        else:
            held.append(route)

    chat.page.route("**/queue/join*", hold)
    chat.open()
    expect(chat.model).to_have_value("")
    chat.ask("too early")
    expect(chat.answers).to_have_text("too early")
    for route in held:
        route.continue_()
    chat.expect_buttons(*ANSWERED)


def test_a_model_of_the_address_that_nobody_serves_is_told(chat: ChatPage) -> None:
    chat.open("?model=<b>${6*7}", model="echo")
    notice = chat.page.locator("#notice")
    expect(notice).to_contain_text("No worker serves <b>${6*7} at the moment.")


def test_an_empty_message_changes_nothing(chat: ChatPage) -> None:
    chat.open(model="echo").button("Send").click()
    chat.ask("   ")
    chat.expect_buttons("Send")
    expect(chat.questions).to_have_count(0)
    chat.message.fill("Something")

    def asked() -> bool:
        """Gradio drops a click while the last one is still being looked at."""
        chat.button("Send").click()
        return chat.questions.count() > 0

    until(asked, "the message is sent")
    chat.expect_buttons(*ANSWERED)
    line = chat.line.locator("p").inner_text()
    chat.ask("  ")
    chat.button("Upvote").click()
    chat.expect_buttons("Send", "Regenerate", "Clear")
    expect(chat.answers).to_have_text("Something")
    expect(chat.line.locator("p")).to_have_text(line)


def test_words_arrive_one_after_another_and_stop_keeps_them(
    chat: ChatPage, echo_stack: Stack
) -> None:
    chat.open("?model=slow", model="slow").ask("one two three four five")
    chat.expect_buttons("Stop")
    chat.page.wait_for_function("window.seen.length >= 6")
    chat.button("Stop").click()
    expect(chat.line).to_contain_text("stopped")
    until(lambda: running(echo_stack) == 0, "the slot is free", 3)
    chat.expect_buttons(*ANSWERED)
    states = chat.seen
    assert all(new.startswith(old) for old, new in pairwise(states))
    assert states[-1].startswith("one two three four five one")
    assert len(states[-1].split()) < 200

    chat.ask("and on")
    expect(chat.questions).to_have_count(2)
    chat.button("Stop").click()
    chat.expect_buttons(*ANSWERED)
    request = newest(echo_stack).request
    assert [message.role for message in request.messages] == ["user", "assistant", "user"]
    assert request.messages[1].text == states[-1]


def test_the_line_tells_how_far_and_how_fast_an_answer_is(
    chat: ChatPage, echo_stack: Stack
) -> None:
    thoughtful = "echo?prefill_s=2&tokens_per_s=20&tokens=80"
    flags = ("--engine", "echo", "--model-path", thoughtful, "--model-name", "thoughtful")
    worker = echo_stack.worker(*flags)
    chat.open("?model=thoughtful", model="thoughtful").ask("one two three")
    expect(chat.line).to_have_text("reading the question")
    expect(chat.answers).to_contain_text("one two")
    expect(chat.line).to_have_text(re.compile(r"answering · (1\d|20) tokens/s"))
    chat.expect_buttons(*ANSWERED)
    expect(chat.line).to_have_text(
        re.compile(r"81 tokens · (1\d|20) tokens/s · first token after [2-9]\.\d+ s")
    )
    worker.stop()


def test_the_uploaded_bytes_reach_the_worker_unchanged(
    chat: ChatPage, echo_stack: Stack, picture: Path
) -> None:
    chat.open(model="echo").ask("No picture yet")
    chat.expect_buttons(*ANSWERED)
    chat.upload(picture)
    chat.ask("Now there is one")
    expect(chat.answers).to_have_count(2)
    chat.expect_buttons(*ANSWERED)

    sha256 = hashlib.sha256(picture.read_bytes()).hexdigest()
    request = newest(echo_stack).request
    assert [message.images for message in request.messages] == [(), (), (sha256,)]
    assert images.get(echo_stack.redis, [sha256])[sha256] == picture.read_bytes()
    shown = chat.questions.last.locator("img")
    assert (shown.get_attribute("src") or "").endswith(f"pictures/{sha256}")
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 64]


def test_a_broken_picture_is_refused_with_a_sentence(chat: ChatPage, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    chat.open(model="echo").upload(path)
    refused = "broken.png: The image cannot be read"
    expect(chat.limits.get_by_role("alert")).to_contain_text(refused)
    chat.ask("Then without it")
    expect(chat.line.get_by_role("alert")).to_contain_text(refused)
    chat.expect_buttons("Send")
    expect(chat.message).to_have_value("Then without it")
    chat.remove(1)
    expect(chat.limits).to_contain_text("Up to 16 pictures")
    chat.message.press("Enter")
    expect(chat.answers).to_have_text("Then without it")


def test_too_many_pixels_are_refused_with_the_limit(chat: ChatPage, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        Image.new("1", (6000, 5000)).save(file, "PNG")
    chat.open(model="echo").upload(path)
    expect(chat.limits).to_contain_text("large.png: The image has 6000 x 5000 pixels")
    expect(chat.limits).to_contain_text("at most 25,000,000 in all")


def test_a_vote_can_be_read_with_redis_cli(chat: ChatPage, echo_stack: Stack) -> None:
    chat.open(model="echo").ask("Is this good?")
    chat.expect_buttons(*ANSWERED)
    chat.button("Upvote").click()
    expect(chat.page.get_by_text("Thanks")).to_be_visible()
    chat.expect_buttons("Send", "Regenerate", "Clear")
    entry = votes(echo_stack)
    request = newest(echo_stack).request
    assert re.search(r"^vote\nupvote$", entry, re.MULTILINE)
    assert request.id in entry
    assert "\necho\n" in entry
    for name in ("Downvote", "Flag"):
        chat.button("Regenerate").click()
        chat.expect_buttons(*ANSWERED)
        chat.button(name).click()
        chat.expect_buttons("Send", "Regenerate", "Clear")
        assert f"vote\n{name.lower()}\n" in votes(echo_stack)


def test_regenerate_asks_the_same_again_with_another_seed(
    chat: ChatPage, echo_stack: Stack
) -> None:
    chat.open(model="echo")
    chat.set_slider("Temperature", 0.6)
    chat.ask("Say it")
    chat.expect_buttons(*ANSWERED)
    first = newest(echo_stack).request
    chat.button("Upvote").click()
    chat.expect_buttons("Send", "Regenerate", "Clear")
    chat.set_slider("Temperature", 0.9)
    chat.button("Regenerate").click()
    chat.expect_buttons(*ANSWERED)
    second = newest(echo_stack).request
    assert second.id != first.id
    assert second.messages == first.messages
    assert second.sampling.seed != first.sampling.seed
    assert (first.sampling.temperature, second.sampling.temperature) == (0.6, 0.9)
    expect(chat.answers).to_have_count(1)


def test_tiles_and_process_mode_are_asked_for_only_when_chosen(
    chat: ChatPage, echo_stack: Stack
) -> None:
    chat.open(model="echo").ask("As you like")
    chat.expect_buttons(*ANSWERED)
    sampling = newest(echo_stack).request.sampling
    assert (sampling.max_input_tiles, sampling.image_process_mode) == (None, None)

    chat.set_slider("Max input tiles", 24)
    chat.page.get_by_label("Crop", exact=True).check()
    chat.ask("Like this")
    expect(chat.answers).to_have_count(2)
    chat.expect_buttons(*ANSWERED)
    sampling = newest(echo_stack).request.sampling
    assert (sampling.max_input_tiles, sampling.image_process_mode) == (24, "Crop")

    chat.set_slider("Max input tiles", 0)
    chat.page.get_by_label("As it is", exact=True).check()
    before = newest(echo_stack).id
    chat.button("Regenerate").click()
    until(lambda: newest(echo_stack).id != before, "it is asked again")
    expect(chat.answers).to_have_count(2)
    chat.expect_buttons(*ANSWERED)
    sampling = newest(echo_stack).request.sampling
    assert (sampling.max_input_tiles, sampling.image_process_mode) == (None, None)


def test_the_token_limit_is_told(chat: ChatPage) -> None:
    chat.open(model="echo")
    chat.set_slider("Max output tokens", 64)
    chat.ask("word " * 100)
    expect(chat.line).to_contain_text("stopped at the token limit")
    expect(chat.line).to_contain_text("64 tokens")


def test_clear_begins_anew(chat: ChatPage, echo_stack: Stack) -> None:
    chat.open(model="echo").ask("Remember me")
    chat.expect_buttons(*ANSWERED)
    chat.button("Clear").click()
    expect(chat.questions).to_have_count(0)
    chat.expect_buttons("Send")
    chat.ask("Who?")
    chat.expect_buttons(*ANSWERED)
    assert len(newest(echo_stack).request.messages) == 1


def test_html_and_money_stay_text_and_nothing_foreign_is_loaded(chat: ChatPage) -> None:
    chat.open(model="echo").ask(
        "<image> costs $5 and $6 <img src=x onerror=alert(1)> <ref>cat</ref> $$a_1$$ שלום 你好"
    )
    chat.expect_buttons(*ANSWERED)
    for bubble in (chat.questions.last, chat.answers.last):
        expect(bubble).to_contain_text("<image> costs $5 and $6 <img src=x onerror=alert(1)>")
        expect(bubble).to_contain_text("<ref>cat</ref>")
        expect(bubble).to_contain_text("שלום 你好")
        expect(bubble.locator(".katex")).to_have_count(1)
        expect(bubble.locator("img")).to_have_count(0)


def test_a_picture_in_an_answer_is_not_fetched_from_another_host(
    chat: ChatPage, address: str
) -> None:
    other = address.replace("127.0.0.1", "localhost")
    chat.open(model="echo").ask(f"![leak]({other}/pictures/secret)")
    expect(chat.answers.locator("img")).to_have_count(1)
    chat.page.wait_for_function("document.querySelector('#chat img').complete")
    blocked = [error for error in chat.errors if "Content Security Policy" in error]
    assert blocked and len(blocked) == len(chat.errors)
    chat.errors.clear()
    chat.foreign.clear()


def test_a_worker_that_went_away_is_an_error_and_regenerate_is_offered(
    chat: ChatPage, echo_stack: Stack
) -> None:
    flags = ("--engine", "echo", "--model-path", "echo", "--model-name", "brief")
    brief = echo_stack.worker(*flags)
    chat.open("?model=brief", model="brief")
    brief.stop()
    chat.ask("Still there?")
    expect(chat.line).to_contain_text("No worker for model 'brief' is alive")
    chat.expect_buttons("Send", "Regenerate", "Clear")
    back = echo_stack.worker(*flags)
    chat.button("Regenerate").click()
    expect(chat.answers).to_have_text("Still there?")
    back.stop()


def test_who_waits_is_told_and_may_stop(
    browser: BrowserContext, address: str, echo_stack: Stack
) -> None:
    narrow = "echo?tokens_per_s=25&tokens=400&context_length=900"
    flags = ("--model-name", "narrow", "--limit-model-concurrency", "1")
    worker = echo_stack.worker("--engine", "echo", "--model-path", narrow, *flags)
    first, second = (ChatPage(browser, address) for _ in range(2))
    first.open("?model=narrow", model="narrow").ask("I am first")
    first.page.wait_for_function("window.seen.length >= 1")
    second.open("?model=narrow", model="narrow").ask("I wait")
    expect(second.line).to_contain_text("queued, next in line")
    second.button("Stop").click()
    expect(second.line).to_contain_text("stopped before it began")
    second.expect_buttons("Send", "Regenerate", "Clear")

    first.button("Stop").click()
    first.expect_buttons(*ANSWERED)
    first.ask("word " * 1000)
    first.expect_buttons("Send", "Regenerate", "Clear")
    error = first.page.get_by_role("alert")
    expect(error).to_contain_text("900")
    expect(error).to_contain_text(f"job {newest(echo_stack).id}")
    first.close()
    second.close()
    worker.stop()


def look_at(browser: APIRequestContext, address: str, picture: dict[str, object]) -> str:
    """What the page says to a message whose sender tells where a file is."""
    parts = browser.get(f"{address}/config").json()["dependencies"]
    asked = {
        "fn_index": next(each["id"] for each in parts if each["api_name"] == "look"),
        "data": ["", "echo", {"text": "", "files": [picture]}],
        "session_hash": "outside",
    }
    assert browser.post(f"{address}/gradio_api/queue/join", data=asked).ok
    return browser.get(f"{address}/gradio_api/queue/data?session_hash=outside").text()


@pytest.mark.parametrize("mark", [{"meta": {"_type": "gradio.FileData"}}, {}], ids=["file", ""])
def test_only_uploaded_files_are_read(
    chat: ChatPage, echo_stack: Stack, mark: dict[str, object]
) -> None:
    outside = Path(__file__).parents[2] / "frontend/ui/examples/five-shapes.png"
    chat.open(model="echo")
    outcome = look_at(chat.page.request, chat.address, {"path": str(outside)} | mark)
    assert "process_completed" in outcome
    assert "Traceback" not in outcome and "examples" not in outcome
    sha256 = hashlib.sha256(outside.read_bytes()).hexdigest()
    assert not echo_stack.redis.exists(keys.image(sha256))


def test_a_phone_shows_everything_without_scrolling_sideways(
    browser: BrowserContext, address: str
) -> None:
    phone = ChatPage(browser, address, width=400, height=800).open(model="echo")
    phone.ask("A rather long line " + "w" * 120 + " $$" + "x+" * 60 + "1$$")
    phone.expect_buttons(*ANSWERED)
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 400
    for name in ("Send", "Stop", "Regenerate", "Clear", "Upvote", "Downvote", "Flag"):
        box = phone.button(name).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 400, name
    phone.close()


def test_a_page_before_its_worker_says_so_and_then_finds_it(
    browser: BrowserContext, stack: Stack
) -> None:
    tab = ChatPage(browser, stack.ui()).open()
    expect(tab.page.locator("#notice")).to_contain_text("No model is being served")
    tab.ask("Hello?")
    expect(tab.line).to_contain_text("No model is being served")
    expect(tab.message).to_have_value("Hello?")
    stack.echo_worker()
    expect(tab.model).to_have_value("echo", timeout=10_000)
    expect(tab.page.locator("#notice")).not_to_contain_text("No model")
    tab.message.press("Enter")
    expect(tab.answers).to_have_text("Hello?")
    tab.close()

    ui = next(process for process in stack.processes if process.log.name.startswith("ui"))
    assert re.search(r"http://127\.0\.0\.1:\d+/ .*http://127\.0\.0\.1:8000/v1", ui.output)
    ui.signal(signal.SIGTERM)
    assert ui.wait(10) == 0
    assert "Traceback" not in ui.output


def test_a_taken_port_is_one_sentence_that_names_port_and_setting(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ui = stack.start("ui", "frontend", "ui", HELIOGRAPH_UI_PORT=str(port))
        assert ui.wait(20) == 1
    assert str(port) in ui.output and "HELIOGRAPH_UI_PORT" in ui.output
    assert ui.output.count("\n") == 1
