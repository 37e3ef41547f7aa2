"""What is set as a formula and what stays text: in a chat and in both chats of a battle."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from tests.frontend.battle_tab import AFTER, VOTES, BattleTab
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack

WRITTEN = r"""Money: $5 and $6, US$7, $8-$9, \$10 and \$x\$; it costs $5, so $x=5$.

Inline $a_1 * b_1 * c$, \(d\), _and $e$_, **$f$**, $a < b$, $p = \$5$, 公式$g$和$h$、价格$5和$6.

$$
\frac{i}{j}
$$

\[ \begin{aligned} k &= l \\ m &= n \end{aligned} \]

| name | formula | price |
|---|---|---|
| $o_1$ | \(p^2\) | $11 |
| $$q$$ | \[r\] | $12 |

- $s$ for $13
  - \(t\)

1. $$u$$

`$x$ \(x\) $$x$$`

```
$x$ \(x\) \[x\]
```"""

SET = [
    "x=5", "a_1 * b_1 * c", "d", "e", "f", "a < b", r"p = \$5", "g", "h", r"\frac{i}{j}",
    r"\begin{aligned} k &= l \\ m &= n \end{aligned}", "o_1", "p^2", "q", "r", "s", "t", "u",
]  # fmt: skip
DISPLAYED = [r"\frac{i}{j}", SET[10], "q", "r", "u"]
TEXT = (
    "Money: $5 and $6, US$7, $8-$9, $10 and $x$; it costs $5, so ○.",
    "Inline ○, ○, and ○, ○, ○, ○, 公式○和○、价格$5和$6.",
)
CELLS = ["○", "○", "$11", "○", "○", "$12"]
CODE = [r"$x$ \(x\) $$x$$", r"$x$ \(x\) \[x\]"]

# Texts of what a bubble has at a selector, each formula a circle.
_TEXTS = """(bubble, selector) => {
  const copy = bubble.cloneNode(true);
  copy.querySelectorAll('.katex').forEach((formula) => formula.replaceWith('○'));
  return [...copy.querySelectorAll(selector)].map((each) => each.textContent.trim());
}"""


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    for name in ("other", "slow"):
        rate = "tokens_per_s=5" if name == "slow" else ""
        echo_stack.echo_worker(rate, **{"model-name": name})
    return echo_stack.ui()


def formulas(bubble: Locator, kind: str = "") -> list[str]:
    """The TeX of each formula, or of each that stands for itself."""
    found = bubble.locator(f"{kind} .katex annotation").all_text_contents()
    return [each.strip() for each in found]


def expect_set(bubble: Locator) -> None:
    expect(bubble.locator(".katex")).to_have_count(len(SET))
    expect(bubble.locator(".katex-error")).to_have_count(0)
    assert formulas(bubble) == SET
    assert formulas(bubble, ".katex-display") == DISPLAYED
    assert tuple(bubble.evaluate(_TEXTS, "p")[:2]) == TEXT
    assert bubble.evaluate(_TEXTS, "td") == CELLS
    assert bubble.evaluate(_TEXTS, "li")[0].startswith("○ for $13")
    assert bubble.evaluate(_TEXTS, "code") == CODE


def test_in_a_chat(browser: BrowserContext, address: str) -> None:
    chat = ChatPage(browser, address).open(model="echo")
    chat.ask(WRITTEN)
    chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
    expect_set(chat.questions.last)
    expect_set(chat.answers.last)
    chat.close()


def test_on_both_sides_of_a_battle(browser: BrowserContext, address: str) -> None:
    battle = BattleTab(browser, address)
    battle.choose("echo", "other")
    battle.ask(WRITTEN)
    battle.expect_enabled(*AFTER, *VOTES, timeout_ms=60_000)
    for side in ("left", "right"):
        expect_set(battle.answers_of(side).last)
        expect_set(battle.questions_of(side).last)
    battle.close()


def test_an_unfinished_formula_is_text_until_it_ends(browser: BrowserContext, address: str) -> None:
    chat = ChatPage(browser, address).open("?model=slow", model="slow")
    chat.page.evaluate("""() => {
      window.sets = [];
      new MutationObserver(() => {
        const bots = document.querySelectorAll('#chat [data-testid="bot"]');
        const bot = bots[bots.length - 1];
        const formulas = [...bot?.querySelectorAll('annotation') ?? []].map((a) => a.textContent);
        const state = JSON.stringify([formulas, bot?.querySelectorAll('.katex-error').length]);
        if (bot && state !== window.sets[window.sets.length - 1]) window.sets.push(state);
      }).observe(document.querySelector('#chat'), {childList: true, subtree: true});
    }""")
    chat.ask("so $x = y + 1$ holds, \\(a + b\\) too, for $5, and $$c + d$$ ends")
    chat.expect_buttons(*ANSWERED, timeout_ms=60_000)
    growing = [["x = y + 1"], ["x = y + 1", "a + b"], ["x = y + 1", "a + b", "c + d"]]
    states = [json.loads(state) for state in chat.page.evaluate("window.sets")]
    assert states == [[each, 0] for each in ([], *growing)]
    assert any(state.startswith("so $x") for state in chat.seen), chat.seen
    assert chat.answers.evaluate(_TEXTS, "p") == ["so ○ holds, ○ too, for $5, and ○ ends"]
    chat.close()
