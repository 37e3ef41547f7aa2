"""Words that stand for whole questions."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from frontend.ui.aliases import ALIASES, spelled_out
from tests.asking import newest
from tests.frontend.chat_page import ANSWERED, ChatPage
from tests.stack import Stack


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    echo_stack.echo_worker()
    return echo_stack.ui()


@pytest.mark.parametrize(
    "word", ["detection", "object detection", "目标检测", "检测", " Detection\n"]
)
def test_a_word_alone_stands_for_a_question(word: str) -> None:
    assert spelled_out(word) == ALIASES[word.strip().lower()] != word


@pytest.mark.parametrize("text", ["", "detection?", "face detection", "检测什么"])
def test_other_texts_stand_for_themselves(text: str) -> None:
    assert spelled_out(text) == text


def test_the_chat_shows_what_the_model_was_asked(chat: ChatPage, echo_stack: Stack) -> None:
    chat.open(model="echo").ask("检测")
    chat.expect_buttons(*ANSWERED)
    expect(chat.questions).to_have_text(ALIASES["检测"])
    assert newest(echo_stack).request.messages[-1].text == ALIASES["检测"]
