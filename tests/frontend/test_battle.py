"""What a battle remembers, whom it draws, and what it tells of errors; the leaderboard's table."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from broker.battles import Duel
from broker.errors import ContextLengthExceeded, InvalidRequest, NoLiveWorker, WorkerFailed
from broker.messages import GenerateRequest, ModelInfo
from broker.strengths import standings
from frontend.ui import leaderboard_table
from frontend.ui.battle import SIDES, Battle, Contestant, choose, draw, drawable, masked

SHA = "0" * 64


def info(name: str, *, ready: int = 1, images: bool = True) -> ModelInfo:
    return ModelInfo(name, 1, ready, 1, 0, 0, 100, images, 1.0, 1.0)


def begun() -> Battle:
    return Battle({"left": Contestant("a"), "right": Contestant("b")}, hidden=True)


def answer(battle: Battle, left: str, right: str) -> None:
    for name, text in zip(SIDES, (left, right), strict=True):
        side = battle.contestants[name]
        request = GenerateRequest(
            id=f"{name}-job", model=side.model, messages=battle.asked(name), created_s=0.0
        )
        side.begin(request)
        assert battle.phase == "answering"
        side.text = text
        side.end(failed=not text)


def said(battle: Battle, name: str) -> list[tuple[str, str]]:
    return [(each.role, each.text) for each in battle.asked(name)]  # type: ignore[arg-type]


def test_both_chats_go_on_with_the_same_questions_and_answers_of_their_own() -> None:
    battle = begun()
    assert battle.phase == "empty"
    battle = battle.next("one", [SHA])
    assert [message.images for message in battle.asked("left")] == [(SHA,)]
    answer(battle, "A", "B")
    assert battle.phase == "answered"
    battle.voted = True
    assert battle.phase == "voted"
    battle = battle.next("two", [])
    assert said(battle, "left") == [("user", "one"), ("assistant", "A"), ("user", "two")]
    assert said(battle, "right") == [("user", "one"), ("assistant", "B"), ("user", "two")]
    assert not battle.voted


def test_a_question_that_one_failed_at_is_left_out_of_both_chats() -> None:
    battle = begun().next("one", [])
    answer(battle, "A", "")
    assert battle.phase == "failed"
    for name in SIDES:
        assert said(battle.next("two", []), name) == [("user", "two")]
        assert said(battle.again(), name) == [("user", "one")]


def test_jobs_under_way_are_known() -> None:
    battle = begun().next("one", [])
    answer(battle, "A", "B")
    assert battle.jobs == []
    left = battle.contestants["left"]
    assert left.job is not None
    left.begin(left.job)
    assert battle.jobs == ["left-job"]


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
        told = masked(replace(error.body, code="a" if error.code == "worker_failed" else error.code))
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
