"""One tab of the page "Side by side", as a person sees it, and all that its server tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from playwright.sync_api import BrowserContext, Locator, expect

from tests.frontend.chat_page import ChatPage

OUTCOMES = ("left", "right", "tie", "bothbad")
VOTES = ("Left is better", "Right is better", "Tie", "Both are bad")
AFTER = ("Send", "Regenerate", "New round")
HIDDEN = "name hidden until you vote"


# Every state of each side's newest answer, as `_WATCH` of the chat page.
_WATCH = """
window.states = {left: [], right: []};
const watch = (side) => {
  const note = () => {
    const bots = document.querySelectorAll(`#${side} [data-testid="bot"]`);
    const text = bots.length ? bots[bots.length - 1].innerText.trim() : '';
    const states = window.states[side];
    if (text && text !== states[states.length - 1]) states.push(text);
  };
  new MutationObserver(note).observe(
    document, {childList: true, subtree: true, characterData: true});
};
watch('left');
watch('right');
"""


class BattleTab(ChatPage):
    """A tab that is open on the page."""

    def __init__(
        self, browser: BrowserContext, address: str, *, width: int = 1100, height: int = 1100
    ) -> None:
        super().__init__(browser, address, width=width, height=height)
        self.listen()
        self.page.add_init_script(_WATCH)
        self.document = ""
        self.come_back("")
        expect(self.button("Send")).to_be_enabled(timeout=20_000)
        expect(self.name("left")).to_have_text("Left: no model yet", timeout=10_000)

    def come_back(self, battle_id: str) -> None:
        """Load a battle, or the page without one."""
        query = f"?battle={battle_id}" if battle_id else ""
        reply = self.page.goto(f"{self.address}/battle{query}")
        assert reply is not None
        self.document = reply.text()
        self.errors.clear()  # Gradio logs the connections that a reload breaks off
        expect(self.name("left")).to_contain_text("Left: ", timeout=20_000)

    @property
    def battle_id(self) -> str:
        """The battle of the address, once it is there."""
        shown = "new URLSearchParams(location.search).get('battle')"
        return str(self.page.wait_for_function(shown).json_value())

    def states(self, side: Literal["left", "right"]) -> list[str]:
        """Every state of a side's newest answer since the page was loaded."""
        states: list[str] = self.page.evaluate(f"window.states.{side}")
        return states

    def wait_for_words(self) -> None:
        """Wait until both answers grow."""
        self.page.wait_for_function(
            "window.states.left.length >= 3 && window.states.right.length >= 3", timeout=30_000
        )

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

    def received(self) -> str:
        """All that the server has told since the page was loaded, and the page as it is."""
        return self.document + super().received()

    def row(self, model: str) -> list[str]:
        """The cells of a model in the leaderboard."""
        row = self.page.locator("#board tr", has_text=model).first
        return row.locator("td").all_inner_texts()
