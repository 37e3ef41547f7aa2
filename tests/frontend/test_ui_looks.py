"""How the pages look: to axe, in the dark, on a phone, in other scripts and from the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
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
def browser() -> Iterator[BrowserContext]:
    with chromium() as started:
        yield started


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
        expect(chat.page.get_by_role("button", name="Remove Image")).to_be_visible()
        chat.ask(WRITTEN)
        chat.expect_buttons(*ANSWERED)
        expect(chat.answers.locator(".katex")).to_have_count(1)
        assert chat.page.evaluate("document.fonts.ready.then(() => document.fonts.size)")
        chat.button("Upvote").click()
        expect(chat.line).to_contain_text("first token after")
        chat.close()

        battle = BattleTab(browser, address)
        battle.page.on("request", lambda request: requested.append(request.url))
        battle.add_pictures(EXAMPLES / "four-shapes.png")
        battle.ask(WRITTEN)
        battle.expect_enabled(*AFTER, *VOTES)
        battle.button("Tie").click()
        battle.expect_enabled(*AFTER)
        battle.close()

        fleet = ChatPage(browser, address)
        fleet.page.on("request", lambda request: requested.append(request.url))
        fleet.page.goto(f"{address}/fleet")
        expect(fleet.page.locator("#charts canvas, #charts svg").first).to_be_visible()
        fleet.close()
    assert {url for url in requested if not url.startswith((address, "data:", "blob:"))} == set()
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
            expect(chat.page.get_by_role("button", name="Remove Image")).to_be_visible()
            chat.ask(WRITTEN)
            chat.expect_buttons(*ANSWERED)
        else:
            chat.page.goto(address + route)
            ready = {"/": "#model input", "/battle": "#left h2", "/fleet": ".sheet td"}[route]
            expect(chat.page.locator(ready).first).to_be_visible(timeout=20_000)
        for width in WIDTHS:
            chat.page.set_viewport_size({"width": width, "height": 800})
            assert violations(chat.page) == [], f"{route}, {scheme}, {width} px"
        chat.close()
