"""One tab of the page "Side by side", as a person sees it, and all that its server tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from playwright.sync_api import BrowserContext, Locator, expect

from tests.frontend.chat_page import ChatPage

VOTES = ("Left is better", "Right is better", "Tie", "Both are bad")
AFTER = ("Send", "Regenerate", "New round")
HIDDEN = "name hidden until you vote"


class BattleTab(ChatPage):
    """A tab that is open on the page."""

    def __init__(
        self, browser: BrowserContext, address: str, *, width: int = 1100, height: int = 1100
    ) -> None:
        super().__init__(browser, address, width=width, height=height)
        self.listen()
        self.page.goto(f"{address}/battle")
        expect(self.button("Send")).to_be_enabled(timeout=20_000)
        expect(self.name("left")).to_have_text("Left: no model yet", timeout=10_000)

    def name(self, side: Literal["left", "right"]) -> Locator:
        return self.page.locator(f"#{side} h2")

    def told(self, side: Literal["left", "right"]) -> Locator:
        return self.page.locator(f"#{side}-line")

    def answers_of(self, side: Literal["left", "right"]) -> Locator:
        return self.page.locator(f'#{side} [data-testid="bot"]')

    def questions_of(self, side: Literal["left", "right"]) -> Locator:
        return self.page.locator(f'#{side} [data-testid="user"]')

    def choose(self, left: str, right: str) -> None:
        """Have two models of one's choice answer."""
        self.page.get_by_label("Choose the models").check()
        for label, model in (("Left model", left), ("Right model", right)):
            box = self.page.get_by_label(label, exact=True)
            box.click()
            self.page.get_by_role("option", name=model, exact=True).click()
            expect(box).to_have_value(model)
            expect(self.page.get_by_role("option")).to_have_count(0)

    def add_pictures(self, *paths: Path) -> None:
        self.page.locator("#pictures input[type=file]").set_input_files(paths)
        for path in paths:
            expect(self.page.locator("#pictures")).to_contain_text(path.stem)

    def expect_enabled(self, *names: str, timeout_ms: float = 15_000) -> None:
        """Exactly these buttons can be pressed."""
        for name in (*AFTER, "Stop", *VOTES):
            expect(self.button(name)).to_be_enabled(enabled=name in names, timeout=timeout_ms)

    def row(self, model: str) -> list[str]:
        """The cells of a model in the leaderboard."""
        row = self.page.locator("#board tr", has_text=model).first
        return row.locator("td").all_inner_texts()
