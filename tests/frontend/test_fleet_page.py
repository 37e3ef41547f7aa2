"""The fleet page in a browser: what lives, the last hour, and orders for operators alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from broker import orders
from frontend.operations import LOGIN_S, NotAnOperator, Operations
from frontend.service import Service
from frontend.ui.fleet_login import COOKIE
from tests.asking import ask
from tests.stack import Stack, until

TOKEN = "open-sesame"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def operations(echo_stack: Stack) -> Iterator[Operations]:
    made = Operations(echo_stack.settings(HELIOGRAPH_OPERATOR_TOKEN=TOKEN))
    yield made
    made.close()


class Watched:
    """A tab that notes errors and requests to other hosts."""

    def __init__(self, browser: BrowserContext, address: str) -> None:
        self.page: Page = browser.new_page()
        self.trouble: list[str] = []
        self.page.on(
            "console", lambda m: self.trouble.append(m.text) if m.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: self.trouble.append(dialog.message))
        own = (address, "data:", "blob:")
        self.page.on(
            "request",
            lambda request: (
                None if request.url.startswith(own) else self.trouble.append(request.url)
            ),
        )
        self.page.goto(f"{address}/fleet")

    def row(self, table: str, name: str) -> list[str]:
        """The cells of the row that begins with a name."""
        row = self.page.get_by_role("region", name=table).locator("tr", has_text=name).first
        return row.locator("td").all_inner_texts()


def test_what_lives_and_what_it_did_is_shown_to_anyone(
    stack: Stack, browser: BrowserContext
) -> None:
    flags = {"limit-model-concurrency": "3", "model-name": HOSTILE}
    worker = stack.echo_worker("tokens_per_s=20&tokens=4000", **flags)
    failing = stack.start("worker", "workers", "--model-path", "nowhere", "--model-name", "broken")
    service = Service(stack.settings())
    for _ in range(5):
        ask(service, "word", model=HOSTILE)
    service.close()
    tab = Watched(browser, stack.ui())
    expect(tab.page.get_by_role("region", name="Models")).to_contain_text(HOSTILE, timeout=20_000)
    until(lambda: tab.row("Models", HOSTILE)[1:4] == ["1 of 1 ready", "3 of 3", "2"], "the model")
    info = stack.info(worker)
    assert info is not None
    until(lambda: float(tab.row("Workers", info.id)[6]) > 20, "its speed")
    cells = tab.row("Workers", info.id)
    assert cells[:6] == [info.id, HOSTILE, "ready", "echo", "cpu", "3 of 3"]
    assert cells[7].endswith(" s ago")
    assert float(cells[7].split()[0]) < 3
    assert len(cells) == 8  # machine and process are for operators
    until(lambda: failing.status is not None, "the other worker has failed")
    until(lambda: "failed: " in tab.row("Workers", "broken")[2], "why it failed")
    for chart in ("Jobs waiting", "Tokens/s", "Time to first token, s"):
        expect(tab.page.locator("#charts").get_by_text(chart, exact=True)).to_be_visible()
    expect(tab.page.get_by_role("button", name="Drain")).to_have_count(0)
    expect(tab.page.locator("#login")).to_contain_text("HELIOGRAPH_OPERATOR_TOKEN")
    worker.signal(signal.SIGKILL)
    expect(tab.page.get_by_role("region", name="Workers")).not_to_contain_text(info.id)
    assert tab.trouble == []


def test_an_operator_pauses_a_model_and_drains_a_worker(
    stack: Stack, browser: BrowserContext
) -> None:
    worker = stack.echo_worker("tokens=5")
    tab = Watched(browser, stack.ui(HELIOGRAPH_OPERATOR_TOKEN=TOKEN))
    page = tab.page
    page.get_by_label("Operator token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Pause").click(timeout=20_000)
    expect(page.locator("#line")).to_contain_text("Model echo is paused.")
    assert orders.paused(stack.redis) == {"echo"}
    expect(page.get_by_role("region", name="Models")).to_contain_text("echo (paused)")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#line")).to_contain_text("Model echo goes on.")
    assert orders.paused(stack.redis) == set()
    info = stack.info(worker)
    assert info is not None
    assert tab.row("Workers", info.id)[8] == f"{info.pid} on {info.host}"
    page.get_by_role("button", name="Drain").click()
    expect(page.locator("#line")).to_contain_text(f"Worker {info.id} ends when its jobs have.")
    assert worker.wait() == 0
    expect(page.locator("#tables")).to_contain_text("No worker is alive.")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Operator token")).to_be_visible(timeout=20_000)
    expect(page.get_by_role("button", name="Drain")).to_have_count(0)
    assert tab.trouble == []


def test_a_wrong_token_logs_nobody_in(stack: Stack) -> None:
    address = stack.ui(HELIOGRAPH_OPERATOR_TOKEN=TOKEN)
    for body in ("token=guess", "token=", "", "token=" + 10_000 * "x", "rubbish\0%ff=%zz"):
        reply = httpx.post(f"{address}/fleet/login", content=body)
        assert (reply.status_code, reply.headers.get("set-cookie")) == (403, None), body
    assert TOKEN not in stack.processes[-1].output
    reply = httpx.post(f"{address}/fleet/login", content=f"token={TOKEN}")
    assert (reply.status_code, reply.headers["location"]) == (303, "/fleet")
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=strict", f"Max-Age={LOGIN_S}"} <= set(cookie.split("; "))


def test_orders_need_a_note_that_is_ours_and_still_good(
    operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = operations.log_in(TOKEN)
    assert note is not None
    assert operations.is_operator(note)
    until_s, _, signature = note.partition(".")
    later = f"{int(until_s) + 1}.{signature}"
    for other in (
        None,
        "",
        "1",
        ".",
        note[:-1],
        later,
        f"x{note}",
        f"\u0662.{signature}",
        "9" * 99,
    ):
        assert not operations.is_operator(other)
        for order in (operations.drain, operations.pause, operations.resume):
            with pytest.raises(NotAnOperator):
                order(other, "echo")
    assert operations.log_in("") is None
    monkeypatch.setattr("time.time", lambda: float(until_s))
    assert not operations.is_operator(note)


def test_without_a_token_there_is_no_operator(echo_stack: Stack) -> None:
    operations = Operations(echo_stack.settings())
    assert not operations.may_log_in
    assert operations.log_in("") is None
    assert not operations.is_operator(f"99999999999.{json.dumps('')}")
    operations.close()
