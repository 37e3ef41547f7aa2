"""The page in Chinese: chosen by the browser or by hand, and with no English left in it."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any, get_args

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from broker import keys
from broker.feedback import MAX_COMMENT
from broker.messages import ImageProcessMode
from broker.side_by_side import SIDES
from frontend.ui import battle, leaderboard_table, votes
from frontend.ui.language import CHINESE
from tests.frontend.chat_page import ChatPage
from tests.stack import Stack, until

FOLDER = Path(battle.__file__).parent
SAME = {"Heliograph", "English", "Markdown", "JSON", "JPEG", "PNG", "WEBP", "GIF", "Top", "token"}
"""Words that are alike in both languages."""

_SEEN = """() => {
  const boxes = [...document.querySelectorAll('[placeholder]')].map((box) => box.placeholder);
  return [document.body.innerText, ...boxes].join('\\n');
}"""


def strings(value: object) -> Iterator[str]:
    """All texts in a value of a module."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from strings(each)


def told() -> Iterator[str]:
    """What is translated: where it stands, and where only a name of it does."""
    for path in FOLDER.glob("*.py"):
        module = importlib.import_module(f"frontend.ui.{path.stem}")
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            if call.func.id in ("say", "label") and path.stem != "language":
                yield from strings(value_of(module, call.args[0]))
    for path in FOLDER.glob("*.js"):
        yield from re.findall(r'say\(\s*"([^"]+)"\s*\)', path.read_text("utf-8"))
    yield from ("Regenerate", "Clear", "Upvote", "Downvote", "Flag", "New round")
    yield from (f"{side.capitalize()} {what}" for side in SIDES for what in ("model", "chat"))
    yield from get_args(ImageProcessMode)
    yield f"Comment, up to {MAX_COMMENT:,} characters"
    yield from strings((battle._WHY, battle._REFUSED, battle._FAILED))
    yield from strings((votes.REASONS, leaderboard_table._HEADS))


def value_of(module: Any, node: ast.expr) -> Any:
    """A constant, or what a name of the module or a place in it stands for."""
    if isinstance(node, ast.Subscript):
        return value_of(module, node.value)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return getattr(getattr(module, node.value.id), node.attr)
    if isinstance(node, ast.Name):
        return getattr(module, node.id, None)
    return node.value if isinstance(node, ast.Constant) else None


def names(text: str) -> list[tuple[str, str]]:
    return sorted((name, spec or "") for _, name, spec, _ in Formatter().parse(text) if name)


def test_all_that_is_said_has_a_translation_and_no_translation_is_left_over() -> None:
    assert set(told()) == set(CHINESE)


@pytest.mark.parametrize("text", CHINESE)
def test_a_translation_has_the_same_values(text: str) -> None:
    assert names(CHINESE[text]) == names(text)


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    echo_stack.echo_worker()
    return echo_stack.ui()


@pytest.fixture
def chinese(browser: BrowserContext) -> Iterator[Page]:
    assert browser.browser
    context = browser.browser.new_context(locale="zh-CN")
    yield context.new_page()
    context.close()


def expect_no_english(page: Page, *known: str) -> None:
    """Gradio's own word that something is under way is English, and soon gone."""

    def english() -> set[str]:
        return set(re.findall(r"[A-Za-z]{3,}", page.evaluate(_SEEN))) - SAME - set(known)

    until(lambda: not english(), "no English is left")


def test_a_browser_in_chinese_sees_no_english(
    chinese: Page, address: str, echo_stack: Stack
) -> None:
    chinese.goto(address)
    expect(chinese.get_by_label("模型", exact=True)).to_have_value("echo")
    expect(chinese.locator("#limits")).to_contain_text("此对话最多可用 16 张图片")
    chinese.get_by_role("button", name="参数").click()
    expect(chinese.get_by_label("系统提示词")).to_be_visible()
    expect(chinese.get_by_label("裁剪", exact=True)).to_be_visible()
    expect(chinese.locator("html")).to_have_attribute("lang", "zh-CN")
    examples = ("What", "you", "see", "How", "many", "shapes", "are", "there")
    terms = str(chinese.locator("#terms").inner_text()).split()
    expect_no_english(chinese, "echo", *examples, *terms)
    chinese.get_by_label("消息", exact=True).fill("一 二 三")
    chinese.get_by_role("button", name="发送", exact=True).click()
    expect(chinese.locator("#line")).to_contain_text("4 个 token · ")
    expect(chinese.locator("#line")).to_contain_text("首个 token 用时")
    chinese.get_by_role("button", name="点踩", exact=True).click()
    chinese.get_by_label("答非所问").check()
    expect_no_english(chinese, "echo", *examples)
    chinese.get_by_role("button", name="提交反馈", exact=True).click()
    expect(chinese.locator("#said")).to_contain_text("您的理由：答非所问")  # noqa: RUF001
    expect(chinese.locator("#line")).to_contain_text("您已点踩")
    noted: Any = echo_stack.redis.xrevrange(keys.FEEDBACK_LOG, count=1)
    assert noted[0][1][b"reason"] == b"not what I asked"


def test_side_by_side_in_chinese(chinese: Page, address: str) -> None:
    chinese.goto(f"{address}/battle")
    expect(chinese.locator("#notice")).to_contain_text("目前只有一个")
    expect(chinese.locator("#left")).to_contain_text("左侧：尚无模型")  # noqa: RUF001
    expect(chinese.get_by_role("button", name="都不好", exact=True)).to_be_visible()
    expect_no_english(chinese, "model", "path", "worker")


def test_the_language_is_switched_on_the_page_and_stays(
    browser: BrowserContext, address: str
) -> None:
    assert browser.browser
    context = browser.browser.new_context()
    chat = ChatPage(context, address).open(model="echo")
    chat.ask("hello there")
    expect(chat.answers).to_have_text("hello there")
    expect(chat.line).to_contain_text("first token after")
    expect(chat.page).to_have_url(re.compile(r"\?chat="))
    expect(chat.page.get_by_role("link", name="English")).to_be_hidden()
    chat.page.get_by_role("link", name="中文").click()
    expect(chat.page.get_by_role("button", name="发送", exact=True)).to_be_enabled()
    expect(chat.answers).to_have_text("hello there")
    expect(chat.line).to_contain_text("首个 token 用时")
    chat.page.reload()
    expect(chat.page.get_by_role("button", name="发送", exact=True)).to_be_enabled()
    chat.page.get_by_role("link", name="English").click()
    expect(chat.button("Send")).to_be_enabled()
    expect(chat.line).to_contain_text("first token after")
    context.close()


def test_another_site_is_not_led_back_to(browser: BrowserContext, address: str) -> None:
    reply = browser.request.get(
        f"{address}/language/zh", headers={"Referer": "http://elsewhere.test/"}, max_redirects=0
    )
    assert (reply.status, reply.headers["location"]) == (303, f"{address}/")


def test_a_language_that_the_page_has_not_is_refused(browser: BrowserContext, address: str) -> None:
    reply = browser.request.get(f"{address}/language/fr")
    assert reply.status == 404
    assert reply.json()["detail"] == "The page is in these languages: en, zh."
