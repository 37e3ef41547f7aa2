"""Putting one question to two models while others change the battle, over real workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from broker.conversation import Chat
from broker.messages import GenerateRequest
from broker.side_by_side import Battle
from frontend.service import Service
from frontend.ui import tabs
from frontend.ui.battle_handlers import BattleHandlers
from frontend.ui.judge import Judge
from frontend.ui.terms import Terms
from tests.asking import newest
from tests.frontend.test_battle_page import worker
from tests.stack import Stack, until

TAB = gr.Request(session_hash="tab", cookies={}, query_params={}, client=None)
OWNER = tabs.owner({}, "tab")


class Busy(Service):
    """A way in beside which somebody else keeps the battle after each job."""

    def submit(self, *args: Any, **options: Any) -> GenerateRequest:
        request = super().submit(*args, **options)
        for entry in self.battles.entries(OWNER):
            self.battles.change(OWNER, entry.id, self.change)
        return request

    def change(self, battle: Battle) -> Battle:
        return battle.with_title(f"changed {battle.version}")


class Hostile(Busy):
    """A way in beside which somebody else answers the right question first."""

    def change(self, battle: Battle) -> Battle:
        job = GenerateRequest(id="elsewhere", model="bee", messages=(), created_s=0.0)
        return battle if battle.right.last else battle.send("right", job)


@pytest.fixture
def two(stack: Stack) -> Stack:
    for name in ("ant", "bee"):
        worker(stack, name)
    return stack


def ask(service: Service, folder: Path) -> tuple[Battle, list[str]]:
    """Ask both models; return the battle as it is then, and the lines of both sides."""
    handlers = BattleHandlers(
        service, folder, Judge(service.pictures, Terms.load(service.settings))
    )
    given = handlers.ask("", "which?", None, "named", "ant", "bee", 0.5, 1.0, 64, TAB)
    handlers.leave(TAB)
    (entry,) = service.battles.entries(OWNER)
    page = given[5:]
    return service.battles.read(OWNER, entry.id), [page[4], page[5]]


def jobs_of(battle: Battle) -> list[str]:
    return [chat.last.job if chat.last else "" for chat in battle.conversations]


def test_the_right_side_is_asked_though_the_battle_was_kept_meanwhile(
    two: Stack, tmp_path: Path
) -> None:
    service = Busy(two.settings())
    battle, lines = ask(service, tmp_path)
    sent = '<p class="line" role="status">sent</p>'
    assert lines == [sent, sent]
    assert jobs_of(battle) == [newest(two, "ant").id, newest(two, "bee").id]
    ended = until(
        lambda: now if not (now := service.battles.read(OWNER, battle.id)).running else None,
        "both have answered",
    )
    assert [chat.last.text for chat in ended.conversations if chat.last] == ["which?"] * 2
    assert said(ended.left) == said(ended.right)
    service.close()


def said(chat: Chat) -> list[str]:
    return [turn.question.text for turn in chat.turns]


def test_a_side_that_another_tab_has_asked_already_is_not_asked_twice(
    two: Stack, tmp_path: Path
) -> None:
    service = Hostile(two.settings())
    battle, lines = ask(service, tmp_path)
    assert jobs_of(battle) == [newest(two, "ant").id, "elsewhere"]
    assert "This battle was changed in another tab." in lines[1]
    service.close()
