"""What a battle remembers, whom it draws, and what it tells of errors; the leaderboard's table."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from broker.battles import Duel
from broker.conversation import Chat
from broker.errors import ContextLengthExceeded, InvalidRequest, NoLiveWorker, WorkerFailed
from broker.events import End, EventId, Timings, Usage
from broker.messages import GenerateRequest, ModelInfo
from broker.side_by_side import SIDES, Battle, new_battle
from broker.strengths import standings
from frontend.ui import leaderboard_table
from frontend.ui.answer import Update
from frontend.ui.battle import ask_on, choose, draw, drawable, masked, phase_of

SHA = "0" * 64
END = End(EventId(1, 9), "", (), "stop", Usage(1, 1), Timings(0.0, 0.1, 0.2))


def info(name: str, *, ready: int = 1, images: bool = True) -> ModelInfo:
    return ModelInfo(name, 1, ready, 1, 0, 0, 100, images, 1.0, 1.0)


def begin(*, anonymous: bool = True) -> Battle:
    return new_battle("me", "a", "b", anonymous=anonymous)


def answered(battle: Battle, *texts: str, job: str = "job") -> Battle:
    """The battle with what both sides say; an empty text is a failure."""
    for side, text in zip(SIDES, texts, strict=True):
        messages = battle.chat(side).messages
        request = GenerateRequest(id=f"{side}-{job}", model="m", messages=messages, created_s=0.0)
        battle = battle.send(side, request)
        finish = END if text else None
        error = None if text else WorkerFailed("It broke.").body
        last: Any = battle.chat(side).last
        told = Update(text, end=finish, error=error).added_to(last)
        battle = battle.model_copy(update={side: battle.chat(side).with_last(told)})
    return battle


def said(chat: Chat) -> list[tuple[str, str]]:
    return [(each.role, each.text) for each in chat.messages]


def test_both_chats_go_on_with_the_same_questions_and_answers_of_their_own() -> None:
    assert (phase_of(None), phase_of(begin())) == ("empty", "empty")
    assert [chat.model for chat in begin().conversations] == ["a", "b"]
    battle = ask_on(begin(), "one", (SHA,))
    assert [chat.images for chat in battle.conversations] == [(SHA,), (SHA,)]
    battle = answered(battle, "A", "B")
    assert (phase_of(battle), battle.hidden, battle.vote) == ("answered", True, None)
    battle = battle.with_vote("left-job", "tie").with_vote("left-job", "left")
    assert (phase_of(battle), battle.hidden, battle.vote) == ("voted", False, "tie")
    battle = ask_on(battle, "two", ())
    assert said(battle.left) == [("user", "one"), ("assistant", "A"), ("user", "two")]
    assert said(battle.right) == [("user", "one"), ("assistant", "B"), ("user", "two")]
    battle = answered(battle, "A", "B", job="next")
    assert (phase_of(battle), battle.hidden, battle.vote) == ("answered", False, None)
    assert said(battle.with_each(Chat.ask_again).left)[-1] == ("user", "two")
    assert not begin(anonymous=False).hidden


def test_a_question_that_one_failed_at_is_left_out_of_both_chats() -> None:
    battle = answered(ask_on(begin(), "one", ()), "A", "")
    assert phase_of(battle) == "failed"
    for chat in ask_on(battle, "two", ()).conversations:
        assert said(chat) == [("user", "two")]


def test_a_battle_is_on_while_one_side_answers() -> None:
    battle = answered(ask_on(begin(), "one", ()), "A", "B")
    job = GenerateRequest(id="next", model="m", messages=battle.left.messages, created_s=0.0)
    left = battle.left.ask_again().send(job)
    battle = battle.model_copy(update={"left": left})
    assert phase_of(battle) == "answering"
    assert [each.job for each in battle.running] == ["next"]


def test_every_pair_and_order_is_drawn() -> None:
    ready = [info(name) for name in "abc"]
    drawn = Counter(draw(ready, sees=False) for _ in range(1200))
    assert set(drawn) == {(a, b) for a in "abc" for b in "abc" if a != b}
    assert min(drawn.values()) > 120  # of 200; the chance of fewer is below 1 in 10^8


def test_only_ready_models_that_see_are_drawn_for_pictures() -> None:
    models = [info("a"), info("b"), info("blind", images=False), info("loading", ready=0)]
    ready = drawable([*models, info("group")], ["group"])
    assert [each.name for each in ready] == ["a", "b", "blind"]
    assert {*draw(ready, sees=True)} == {"a", "b"}
    with pytest.raises(NoLiveWorker, match="two ready models that read pictures, and there is one"):
        draw([info("a"), info("blind", images=False)], sees=True)
    with pytest.raises(NoLiveWorker, match="two ready models, and there is none at the moment"):
        draw([], sees=False)


def test_chosen_models_are_two() -> None:
    assert choose("a", "b") == ("a", "b")
    with pytest.raises(InvalidRequest, match="Choose a model for each side"):
        choose("a", None)
    with pytest.raises(InvalidRequest, match="Choose two different models"):
        choose("a", "a")


def test_an_error_is_told_in_words_that_name_nobody() -> None:
    for error in (ContextLengthExceeded("a holds 9"), NoLiveWorker("a"), WorkerFailed("a broke")):
        told = masked(
            replace(error.body, code="a" if error.code == "worker_failed" else error.code)
        )
        assert told.message.startswith(("This model ", "No worker of this model "))
        assert told.status == error.status


def test_the_leaderboard_tells_ranks_that_may_be_and_escapes_names() -> None:
    rows = standings({("<b>", "ok"): Duel(first_won=90, ties=10, bothbad=4), ("x", "y"): Duel(1)})
    html = leaderboard_table.tables(rows)
    assert "<td>&lt;b&gt;</td>" in html and "<b>" not in html
    assert 'aria-label="Leaderboard, group 1"' in html
    assert 'aria-label="Leaderboard, group 2"' in html
    ranks = {row.model: (row.rank, row.last_rank) for row in rows}
    assert ranks == {"<b>": (1, 1), "ok": (2, 2), "x": (1, 2), "y": (1, 2)}
    first = html.partition("<tbody><tr>")[2].partition("</tr>")[0]
    cells = first.removeprefix("<td>").removesuffix("</td>").split("</td><td>")
    assert (cells[0], cells[4:]) == ("1", ["100", "90", "0", "10", "4"])
