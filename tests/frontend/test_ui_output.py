"""What a model may say to harm its reader: the chat page shows it as text, and runs nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Dialog, expect

from tests.chaos.test_inputs import nothing_broke
from tests.frontend.chat_page import ANSWERED, ChatPage, chromium
from tests.scripted import scripted
from tests.stack import Stack

WORD = "x" * 5000
WORDS = 200
"""Together a line of a megabyte."""

pytestmark = pytest.mark.timeout(1800)


def hostile(other: str) -> list[str]:
    """Answers that would run, or call `other`, if they were taken for more than text."""
    return [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        f"<img src={other}/image>",
        f"![image]({other}/image?secret)",
        f"![image][1]\n\n[1]: {other}/reference",
        "[link](javascript:alert(1)) [link](data:text/html,<script>alert(1)</script>)",
        "<a href='javascript:alert(1)'>link</a>",
        f"<iframe src={other}/frame></iframe><object data={other}/object></object>",
        f"<svg onload=alert(1)><use href={other}/use#a /></svg>",
        f"<style>@import '{other}/style'; body {{background: url({other}/url)}}</style>",
        f"<link rel=stylesheet href={other}/link><meta http-equiv=refresh content='0;{other}'>",
        f"<form action={other}/form><button autofocus onfocus=alert(1)>x</button></form>",
        "```html\n<script>alert(1)</script>\n```",
        "`</code><script>alert(1)</script>`",
        "$$\\href{javascript:alert(1)}{x} \\htmlData{a=<script>alert(1)</script>}{y}$$",
        '```mermaid\ngraph TD; A-->B; click A "javascript:alert(1)"\n```',
    ]


def dismiss(dialog: Dialog, dialogs: list[Dialog]) -> None:
    dialogs.append(dialog)
    dialog.dismiss()


def test_hostile_answers(echo_stack: Stack, report: Callable[[str], None]) -> None:
    dialogs: list[Dialog] = []
    with chromium() as browser, scripted({}) as other:
        chat = ChatPage(browser, echo_stack.ui())
        chat.page.on("dialog", lambda dialog: dismiss(dialog, dialogs))
        answers = hostile(other.url)
        chat.open(model="echo")
        for place, text in enumerate(answers, 1):
            chat.ask(text)
            expect(chat.answers).to_have_count(place)
            chat.expect_buttons(*ANSWERED)
        links = [link.get_attribute("href") or "" for link in chat.answers.locator("a").all()]
        assert not [link for link in links if link.startswith(("javascript:", "data:"))]
        assert (dialogs, other.seen) == ([], [])
        chat.errors.clear()
        chat.foreign.clear()
        chat.close()
    report(f"hostile answers: {len(answers)} shown, 0 dialogs, 0 requests to another host")


def test_a_line_of_a_megabyte(stack: Stack, report: Callable[[str], None]) -> None:
    stack.echo_worker(f"tokens={WORDS}")
    with chromium() as browser:
        chat = ChatPage(browser, stack.ui()).open(model="echo")
        chat.ask(WORD)
        chat.expect_buttons(*ANSWERED)
        is_whole = chat.answers.last.inner_text().strip() == " ".join([WORD] * WORDS)
        assert is_whole
        is_wrapped: bool = chat.page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
        assert is_wrapped
        chat.close()
    report("a line of 1 MB: shown whole, and wrapped")
    nothing_broke(stack)
