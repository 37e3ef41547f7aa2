"""The terms of use on the chat page: shown, replaced, hidden, agreed to."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, expect

from broker import keys
from tests.frontend.battle_tab import BattleTab
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack

HOSTILE = """# House rules
Be <b>kind</b> & brief. <img src=x onerror="document.title='owned'">
<script>document.title = 'owned'</script>

[The rest](javascript:document.title='owned') [elsewhere](https://example.org/rules)
"""
AGREE = "I agree to the terms of use"


def fold(tab: ChatPage) -> None:
    tab.page.get_by_role("button", name="Terms of use").click()


def test_the_terms_are_folded_and_hidden_when_embedded(
    echo_stack: Stack, browser: BrowserContext
) -> None:
    tab = ChatPage(browser, echo_stack.ui()).open(model="echo")
    text = tab.page.get_by_text("A preview for research.")
    expect(text).not_to_be_visible()
    fold(tab)
    expect(text).to_be_visible()
    expect(tab.page.locator("#terms")).to_contain_text("the address that they came from")
    expect(tab.button(AGREE)).to_have_count(0)
    tab.close()
    tab = ChatPage(browser, echo_stack.ui("--embed")).open(model="echo")
    expect(tab.page.get_by_text("Terms of use")).to_have_count(0)
    tab.close()


def test_nothing_is_sent_before_the_operators_terms_are_agreed_to(
    stack: Stack, browser: BrowserContext
) -> None:
    for name in ("echo", "other"):
        stack.echo_worker(**{"model-name": name})
    path = stack.folder / "terms.md"
    path.write_text(HOSTILE)
    setting = {"HELIOGRAPH_TERMS": str(path), "HELIOGRAPH_TERMS_CONSENT": "on"}
    tab = ChatPage(browser, stack.ui(**setting)).open(model="echo")
    rules = tab.page.locator("#terms")
    expect(rules.get_by_role("heading", name="House rules")).to_be_visible()
    expect(rules).to_contain_text("Be <b>kind</b> & brief. <img src=x onerror=")
    expect(rules).to_contain_text("<script>document.title = 'owned'</script>")
    expect(rules.locator("img, script, b")).to_have_count(0)
    expect(rules.locator("a[href^=javascript]")).to_have_count(0)
    expect(rules.get_by_role("link", name="elsewhere")).to_be_visible()
    assert tab.page.title() == "Heliograph"

    refusal = "Agree to the terms of use first: they stand at the end of the chat page."
    tab.ask("May I?")
    expect(tab.line).to_have_text(refusal)
    expect(tab.message).to_have_value("May I?")
    expect(tab.questions).to_have_count(0)
    battle = BattleTab(browser, tab.address)
    battle.ask("May I here?")
    expect(battle.line).to_have_text(refusal)
    assert not list(stack.redis.scan_iter(match=keys.job("*")))

    tab.button(AGREE).focus()
    tab.page.keyboard.press("Enter")
    expect(tab.button(AGREE)).to_have_count(0)
    expect(rules.get_by_role("heading", name="House rules")).not_to_be_visible()
    tab.message.press("Enter")
    expect(tab.answers).to_have_text("May I?")
    tab.expect_buttons(*ANSWERED)
    battle.message.press("Enter")
    expect(battle.button("Tie")).to_be_enabled()
    battle.close()
    tab.close()
    again = ChatPage(browser, tab.address).open(model="echo")
    expect(again.page.locator("#terms")).to_be_visible()
    expect(again.button(AGREE)).to_have_count(0)
    again.close()

    path.write_text(HOSTILE + "\nAnd be on time.")
    anew = ChatPage(browser, stack.ui(**setting)).open(model="echo")
    expect(anew.button(AGREE)).to_be_visible()
    anew.ask("Still?")
    expect(anew.line).to_have_text(refusal)
    anew.close()


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            {"HELIOGRAPH_TERMS": "missing.md"},
            "HELIOGRAPH_TERMS='missing.md' cannot be read (FileNotFoundError): it must be a "
            "Markdown file in UTF-8.",
        ),
        (
            {"HELIOGRAPH_TERMS": "/dev/null"},
            "HELIOGRAPH_TERMS='/dev/null' is empty: write the terms into it.",
        ),
        (
            {"HELIOGRAPH_TERMS_CONSENT": "on", "HELIOGRAPH_EMBED": "on"},
            "HELIOGRAPH_TERMS_CONSENT=on needs the terms on the page, and HELIOGRAPH_EMBED=on "
            "(--embed) hides them: set one of them off.",
        ),
    ],
)
def test_terms_that_cannot_be_shown_are_one_sentence(
    stack: Stack, env: dict[str, str], sentence: str
) -> None:
    ui = stack.start("ui", "frontend", "ui", **env)
    assert ui.wait(30) == 1
    assert ui.output.splitlines() == [sentence]
