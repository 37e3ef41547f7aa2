"""The flags of the doors, and what the chat page's address may say."""

from __future__ import annotations

import errno
import http.client
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest
from gradio.tunneling import BINARY_FILENAME
from playwright.sync_api import BrowserContext, expect

from broker import jobs
from tests.asking import newest
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack, free_port, until

WATCH_THE_NETWORK = '''
"""Notes which hosts this process wants to reach, and lets it reach loopback alone."""
import os
import sys

def watch(event, arguments):
    if event not in ("socket.getaddrinfo", "socket.connect"):
        return
    address = arguments[1] if event == "socket.connect" else arguments
    host = address[0] if isinstance(address, tuple) else None
    if host is None or host in ("", "localhost", "0.0.0.0") or host.startswith("127."):
        return
    with open(os.environ["SEEN"], "a") as seen:
        print(host, file=seen)
    raise OSError("this test has no network")

sys.addaudithook(watch)
'''


A_TUNNEL = """#!{python}
import asyncio, sys

def flag(name):
    return sys.argv[sys.argv.index(name) + 1]

async def copy(source, target):
    while piece := await source.read(65536):
        target.write(piece)
        await target.drain()
    target.close()

async def forward(source, target):
    page = await asyncio.open_connection(flag("-i"), int(flag("-l")))
    await asyncio.gather(copy(source, page[1]), copy(page[0], target), return_exceptions=True)

async def main():
    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    address = "127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    print("start proxy success: http://" + address, flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


NO_TUNNEL = (
    "there is no public address: gradio.live cannot be reached, or its program cannot be fetched. "
    "The page is served on this machine all the same."
)


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    return echo_stack.ui()


def options(tab: ChatPage) -> list[str]:
    """The models that the list offers, in order."""
    tab.model.click()
    names = [name.strip() for name in tab.page.get_by_role("option").all_inner_texts()]
    tab.model.blur()
    return [name.removeprefix("✓").strip() for name in names]


@pytest.mark.parametrize("door", ["api", "ui"])
def test_flags_say_where_a_door_listens(stack: Stack, door: str) -> None:
    port = free_port()
    setting = {f"HELIOGRAPH_{door.upper()}_PORT": "1", "HELIOGRAPH_HOST": "203.0.113.9"}
    process = stack.start(
        door, "frontend", door, "--host", "127.0.0.2", "--port", str(port), **setting
    )

    def answers() -> bool:
        assert process.status is None, process.output
        connection = http.client.HTTPConnection("127.0.0.2", port, timeout=10)
        try:
            connection.request("GET", "/health" if door == "api" else "/")
            return connection.getresponse().status == 200
        except ConnectionError:
            return False
        finally:
            connection.close()

    until(answers, "it answers there", 60)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["ui", "--port", "x"], "HELIOGRAPH_UI_PORT='x' does not parse: expected int."),
        (["api", "--port", "70000"], "HELIOGRAPH_API_PORT=70000 is not a port: use 1 to 65535."),
        (
            ["ui", "--host", "203.0.113.9"],
            "HELIOGRAPH_HOST='203.0.113.9' is no address of this machine: use 127.0.0.1, 0.0.0.0 "
            "for all of them, or one of its own.",
        ),
        (
            ["ui", "--concurrency-count", "1001"],
            "HELIOGRAPH_CONCURRENCY_COUNT=1001 is too many: use 1 to 1000, and more processes for "
            "more.",
        ),
        (
            ["ui", "--model-list-mode", "never"],
            "python -m frontend ui: error: argument --model-list-mode: invalid choice: 'never' "
            "(choose from 'reload', 'once')",
        ),
        (["api", "--embed"], "python -m frontend: error: unrecognized arguments: --embed"),
    ],
)
def test_a_wrong_flag_is_one_sentence(stack: Stack, flags: list[str], sentence: str) -> None:
    process = stack.start("wrong", "frontend", *flags)
    assert process.wait(30) in (1, 2)
    assert process.output.splitlines()[-1] == sentence
    assert "Traceback" not in process.output


def test_the_list_has_internvls_order_and_follows_what_is_served(
    stack: Stack, browser: BrowserContext
) -> None:
    for name in ("InternVL2-1B", "alpha", "InternVL2-8B"):
        stack.echo_worker(**{"model-name": name})
    address = stack.ui()
    tab = ChatPage(browser, address).open(model="InternVL2-8B")
    assert options(tab) == ["InternVL2-8B", "InternVL2-1B", "alpha"]
    kept = ChatPage(browser, stack.ui("--model-list-mode", "once")).open(model="InternVL2-8B")
    pro = stack.echo_worker(**{"model-name": "InternVL2-Pro"})
    until(lambda: options(tab)[:1] == ["InternVL2-Pro"], "the new model is in the list")
    kept.open("?model=InternVL2-Pro", model="InternVL2-8B")
    assert options(kept) == ["InternVL2-8B", "InternVL2-1B", "alpha"]
    kept.open("?model=alpha", model="alpha")
    tab.model.click()
    pro.stop()
    expect(tab.model).to_have_attribute("aria-expanded", "false")
    assert options(tab) == ["InternVL2-8B", "InternVL2-1B", "alpha"]
    tab.close()
    kept.close()


def test_a_list_that_is_kept_begins_with_the_first_model(
    stack: Stack, browser: BrowserContext
) -> None:
    tab = ChatPage(browser, stack.ui(HELIOGRAPH_MODEL_LIST_MODE="once")).open()
    expect(tab.page.locator("#notice")).to_contain_text("No model is being served")
    worker = stack.echo_worker()
    expect(tab.model).to_have_value("echo", timeout=10_000)
    worker.stop()
    expect(tab.page.locator("#notice")).to_contain_text("No worker serves echo", timeout=10_000)
    assert options(tab) == ["echo"]
    tab.close()


@contextmanager
def framing(folder: Path, address: str, allow: str = "") -> Iterator[str]:
    """A site, which is not the page's, that shows the page in a frame and allows it features."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    frame = f'<iframe src="{address}/" allow="{allow}" width=900 height=900></iframe>'
    (site / "index.html").write_text(frame)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def policy(url: str) -> str:
    with urlopen(url) as reply:
        return str(reply.headers["Content-Security-Policy"]).rpartition("; ")[2]


def test_an_embedded_page_works_in_another_sites_frame(
    echo_stack: Stack, browser: BrowserContext
) -> None:
    address = echo_stack.ui("--embed")
    with framing(echo_stack.folder, address) as site:
        tab = browser.new_page()
        tab.goto(site)
        frame = tab.frame_locator("iframe")
        message = frame.get_by_label("Message", exact=True)
        expect(frame.get_by_label("Model", exact=True)).to_have_value("echo", timeout=20_000)
        message.fill("Hello from a frame")
        message.press("Enter")
        expect(frame.locator('#chat [data-testid="bot"]')).to_have_text("Hello from a frame")
        expect(frame.get_by_role("button", name="Upvote")).to_be_enabled()
        frame.get_by_role("button", name="Upvote").click()
        expect(frame.get_by_text("Thanks")).to_be_visible()
        for hidden in ("h1", "a[href=fleet]", "a[href=battle]"):
            expect(frame.locator(hidden)).to_have_count(0)
        tab.close()
    assert policy(f"{address}/") == "frame-ancestors 'self' *"
    for other in ("battle", "fleet", "config"):
        assert policy(f"{address}/{other}") == "frame-ancestors 'self'"


def test_nobody_else_frames_a_page_unless_it_is_allowed(
    echo_stack: Stack, browser: BrowserContext, address: str
) -> None:
    with framing(echo_stack.folder, address) as site:
        tab = browser.new_page()
        with tab.expect_console_message(lambda message: "frame-ancestors" in message.text):
            tab.goto(site)
        expect(tab.frame_locator("iframe").locator("#chat")).to_have_count(0)
        tab.close()
    assert policy(f"{address}/") == "frame-ancestors 'self'"
    told = "https://a.example http://localhost:1"
    some = echo_stack.ui(HELIOGRAPH_EMBED="on", HELIOGRAPH_EMBED_ORIGINS=told)
    assert policy(f"{some}/") == f"frame-ancestors 'self' {told}"


def test_an_address_at_gradio_live_is_made_only_when_asked_for(
    echo_stack: Stack, browser: BrowserContext, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH_THE_NETWORK)
    path = f"{tmp_path}:{echo_stack.env.get('PYTHONPATH', '')}"
    seen = tmp_path / "seen"
    env = {"PYTHONPATH": path, "SEEN": str(seen), "HF_HOME": str(tmp_path / "hub")}

    def asks_and_is_answered(address: str) -> None:
        tab = ChatPage(browser, address).open(model="echo")
        tab.ask("Is anybody there?")
        expect(tab.answers).to_have_text("Is anybody there?")
        tab.close()

    asks_and_is_answered(echo_stack.ui(**env, GRADIO_SHARE="True"))
    assert not seen.exists()
    asks_and_is_answered(echo_stack.ui("--share", **env))
    assert set(seen.read_text().split()) == {"api.gradio.app"}
    page = echo_stack.processes[-1]
    until(lambda: NO_TUNNEL in page.output, "it says that there is none")
    assert "Traceback" not in page.output
    assert not (tmp_path / "hub").exists()


def test_the_page_is_whole_behind_a_tunnel(
    echo_stack: Stack, browser: BrowserContext, tmp_path: Path
) -> None:
    """With a program that forwards on this machine in the place of the one that is fetched."""
    program = tmp_path / "gradio" / "frpc" / BINARY_FILENAME
    program.parent.mkdir(parents=True)
    program.write_text(A_TUNNEL.format(python=sys.executable))
    program.chmod(0o700)
    echo_stack.ui("--share", HF_HOME=str(tmp_path), GRADIO_SHARE_SERVER_ADDRESS="127.0.0.1:9")
    page = echo_stack.processes[-1]
    told = until(
        lambda: re.search(r"whoever knows https://(\S+) can use the chat page", page.output),
        "its public address is told",
    )
    tab = ChatPage(browser, f"http://{told[1]}").open(model="echo")
    tab.ask("Is anybody there?")
    expect(tab.answers).to_have_text("Is anybody there?")
    tab.close()
    page.stop()
    host, _, port = told[1].partition(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) == errno.ECONNREFUSED, "it has ended as well"


def test_so_many_answers_are_shown_at_a_time(echo_stack: Stack, browser: BrowserContext) -> None:
    slow = "echo?tokens_per_s=25&tokens=1000"
    echo_stack.worker("--engine", "echo", "--model-path", slow, "--model-name", "slow")
    address = echo_stack.ui("--concurrency-count", "1")
    first, second = (ChatPage(browser, address) for _ in range(2))
    first.open("?model=slow", model="slow").ask("I am first")
    first.page.wait_for_function("window.seen.length >= 2")
    second.open("?model=echo", model="echo").ask("I am second")
    expect(second.questions).to_have_text("I am second")

    def is_written() -> bool:
        job = newest(echo_stack)
        return job.request.messages[-1].text == "I am second" and job.state in jobs.ENDED

    until(is_written, "the second answer is written")
    expect(second.answers).to_have_count(0)
    first.button("Stop").click()
    first.expect_buttons(*ANSWERED)
    expect(second.answers).to_have_text("I am second")
    second.expect_buttons(*ANSWERED)
    first.close()
    second.close()
