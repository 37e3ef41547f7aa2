"""The tally: read on from where it stopped, whichever side a model stood on."""

from __future__ import annotations

import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from broker import feedback, keys, pages
from broker.battles import Duel, Tally
from tests.broker.jobs import answered
from tests.stack import Stack


def fight(stack: Stack, left: str, right: str, outcome: Any) -> None:
    jobs = (answered(stack.redis, uuid.uuid4().hex, model=model) for model in (left, right))
    feedback.battle(stack.redis, *jobs, outcome)


def test_a_win_counts_for_the_model_on_whichever_side_it_stood(stack: Stack) -> None:
    fight(stack, "a", "b", "left")
    fight(stack, "b", "a", "right")
    fight(stack, "b", "a", "left")
    fight(stack, "a", "b", "tie")
    fight(stack, "b", "a", "bothbad")
    fight(stack, "c", "b", "left")
    fight(stack, "a", "a", "left")
    feedback.vote(stack.redis, answered(stack.redis, "four"), "upvote")
    assert Tally().read(stack.redis) == {
        ("a", "b"): Duel(first_won=2, second_won=1, ties=2, bothbad=1),
        ("b", "c"): Duel(second_won=1),
    }


def test_only_what_is_new_is_read(stack: Stack) -> None:
    tally = Tally()
    assert tally.read(stack.redis) == {}
    for _ in range(pages.PAGE + 1):
        fields = {"vote": "left", "left_model": "a", "right_model": "b"}
        stack.redis.xadd(keys.FEEDBACK_LOG, fields)  # type: ignore[arg-type]
    assert tally.read(stack.redis) == {("a", "b"): Duel(pages.PAGE + 1)}
    stack.redis.xtrim(keys.FEEDBACK_LOG, maxlen=0, approximate=False)
    fight(stack, "a", "b", "right")
    assert tally.read(stack.redis) == {("a", "b"): Duel(pages.PAGE + 1, 1)}
    assert tally.read(stack.redis) == {("a", "b"): Duel(pages.PAGE + 1, 1)}


def test_many_readers_at_once_count_each_vote_once(stack: Stack) -> None:
    for _ in range(250):
        fields = {"vote": "tie", "left_model": "b", "right_model": "a"}
        stack.redis.xadd(keys.FEEDBACK_LOG, fields)  # type: ignore[arg-type]
    tally = Tally()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: tally.read(stack.redis), range(16)))
    assert found == [{("a", "b"): Duel(ties=250)}] * 16


def test_a_broken_vote_is_passed_over(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    broken: Any = stack.redis.xadd(keys.FEEDBACK_LOG, {"vote": "left", "left_model": "a"})
    fight(stack, "a", "b", "left")
    assert Tally().read(stack.redis) == {("a", "b"): Duel(1)}
    expected = f"entry {broken.decode()} is broken and left out: field 'right_model' is missing"
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_the_command_prints_the_board(stack: Stack) -> None:
    def board() -> list[list[str]]:
        done = subprocess.run(
            [sys.executable, "-m", "broker", "leaderboard"],
            env={"REDIS_URL": stack.url, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.replace("│", " ").split() for line in done.stdout.splitlines()]

    assert " ".join(board()[0]) == "No two answers have been compared yet."
    for _ in range(3):
        fight(stack, "ant", "bee", "right")
    fight(stack, "bee", "ant", "bothbad")
    bee, ant = (row for row in board() if "ant" in row or "bee" in row)
    assert (bee[:2], bee[-5:]) == (["1", "bee"], ["4", "3", "0", "1", "1"])
    assert (ant[:2], ant[-5:]) == (["1", "ant"], ["4", "0", "3", "1", "1"])
    assert int(bee[2]) > 1000 > int(ant[2])
    assert int(bee[3]) < int(bee[2]) < int(bee[5])
