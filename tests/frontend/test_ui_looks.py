"""How the pages look: to axe, in the dark, on a phone, in other scripts and from the keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from tests.frontend.battle_tab import AFTER, VOTES, BattleTab
from tests.frontend.chat_page import ANSWERED, ChatPage, chromium
from tests.stack import Stack

EXAMPLES = Path(__file__).parents[2] / "frontend" / "ui" / "examples"
WIDTHS = (1280, 360)
WRITTEN = """Look at `this`, [a link](/fleet) and $x^2$:

| a | b |
|---|---|
| 1 | 2 |

```python
@cache
class Shape(Base):  # has a colour
    def area(self, side: float = 2.0) -> str:
        return f"{side * side:.2f}" + 'cm' if True else None
```

```html
<p class="note">Words &amp; more</p>
```
"""


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    echo_stack.echo_worker(**{"model-name": "other"})
    return echo_stack.ui(HELIOGRAPH_OPERATOR_TOKEN="open-sesame")


NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


def test_no_error_is_logged_and_no_other_host_is_asked(address: str) -> None:
    with chromium(NOWHERE) as browser:
        chat = ChatPage(browser, address)
        requested: list[str] = []
        chat.page.on("request", lambda request: requested.append(request.url))
        chat.page.on("websocket", lambda socket: requested.append(socket.url))
        chat.page.emulate_media(color_scheme="dark")
        chat.open(model="echo").upload(EXAMPLES / "four-shapes.png")
        chat.ask(WRITTEN)
        chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
        expect(chat.answers.locator(".katex")).to_have_count(1)
        assert chat.page.evaluate("document.fonts.ready.then(() => document.fonts.size)")
        chat.button("Upvote").click()
        expect(chat.line).to_contain_text("first token after")
        chat.close()

        battle = BattleTab(browser, address)
        battle.page.on("request", lambda request: requested.append(request.url))
        battle.add_pictures(EXAMPLES / "four-shapes.png")
        battle.ask(WRITTEN)
        battle.expect_enabled(*AFTER, *VOTES, timeout_ms=60_000)
        battle.button("Tie").click()
        battle.expect_enabled("Send", "New round")
        battle.close()

        fleet = ChatPage(browser, address)
        fleet.page.on("request", lambda request: requested.append(request.url))
        fleet.page.goto(f"{address}/fleet")
        expect(fleet.page.locator("#charts canvas, #charts svg").first).to_be_visible()
        fleet.close()
    own = (address, address.replace("http", "ws", 1), "data:", "blob:")
    assert {url for url in requested if not url.startswith(own)} == set()
    assert [url for url in requested if url.startswith("ws:")], "tabs hear by web socket"
    assert [url for url in requested if url.endswith(".woff2")], "formulas have fonts of this host"


def violations(page: Page) -> list[str]:
    """What axe finds serious or critical: the rule, and where."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {node['html'][:200]} {node['failureSummary'][:200]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("route", ["/", "/battle", "/fleet", "chat"])
def test_axe_finds_nothing_serious(browser: BrowserContext, address: str, route: str) -> None:
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        chat = ChatPage(browser, address)
        chat.page.emulate_media(color_scheme=scheme)
        if route == "chat":
            chat.open(model="echo").upload(EXAMPLES / "four-shapes.png")
            chat.ask(WRITTEN)
            chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
        else:
            chat.page.goto(address + route)
            last = {"/": ".gallery-item p", "/battle": "#left h2", "/fleet": ".sheet td"}[route]
            expect(chat.page.locator(last).last).to_be_visible(timeout=20_000)
        for width in WIDTHS:
            chat.page.set_viewport_size({"width": width, "height": 800})
            assert violations(chat.page) == [], f"{route}, {scheme}, {width} px"
        chat.close()


def test_code_keeps_its_lines_and_is_copied_exactly(browser: BrowserContext, address: str) -> None:
    browser.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    code = "def area(side: float = 2.0) -> str:\n    return f'{side * side}' + ' <cm>'"
    chat = ChatPage(browser, address).open(model="echo")
    chat.ask(f"```python\n{code}\n```")
    chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
    expect(chat.answers.locator(".token.operator").first).to_have_css("display", "inline")
    assert chat.answers.locator("pre").inner_text().rstrip("\n") == code
    chat.answers.locator("pre").hover()
    chat.answers.locator(".copy_code_button").click()
    assert chat.page.evaluate("navigator.clipboard.readText()").rstrip("\n") == code
    chat.close()


def test_each_paragraph_has_its_own_direction_and_code_runs_from_the_left(
    browser: BrowserContext, address: str
) -> None:
    paragraphs = (
        "A paragraph in English, long enough to be the widest",
        "יש כאן 42 צורות עם GPU אחד",
        "في الصورة 3 دوائر و Heliograph",
        "图中有三个圆形",
    )
    chat = ChatPage(browser, address).open(model="echo")
    chat.ask("\n\n".join((*paragraphs, "```\nאבג = 1\n```")))
    chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
    assert chat.answers.locator("p").all_inner_texts() == list(paragraphs)
    for bubble in (chat.answers, chat.questions):
        assert bubble.evaluate(_SIDES) == ["left", "right", "right", "left", "left"]
    chat.close()


# At which side of its box the text of each paragraph, and of the code, begins.
_SIDES = """(bubble) => [...bubble.querySelectorAll('p, pre code')].map((box) => {
  const text = document.createRange();
  text.selectNodeContents(box);
  const inner = text.getBoundingClientRect();
  const outer = (box.closest('pre') ?? box).getBoundingClientRect();
  return inner.left - outer.left <= outer.right - inner.right ? 'left' : 'right';
})"""
