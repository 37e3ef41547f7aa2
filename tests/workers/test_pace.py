"""How much of a prompt is taken at a time beside running answers."""

from __future__ import annotations

import pytest

from tests.workers.test_slots import sequence
from workers.engines.base import Batch, Chunk
from workers.pace import LEAST_TOKENS, STRETCH, UNDISTURBED, Pace


def step(decodes: int, tokens: int) -> Batch:
    """A step of so many answers, and a piece of a prompt if it has tokens."""
    chunks = (Chunk(sequence(range(tokens)), 0, tokens),) if tokens else ()
    return Batch(chunks, tuple(sequence(range(3)) for _ in range(decodes)))


def learn(pace: Pace, step_s: float, answer_s: float, token_s: float, most: int = 32) -> None:
    """Show it steps of a machine on which they take so long."""
    for turn in range(300):
        decodes, tokens = (1, 4, 16, most)[turn % 4], (0, 0, 50, 120, 20)[turn % 5]
        pace.note(step(decodes, tokens), step_s + decodes * answer_s + tokens * token_s)


def test_a_prompt_alone_takes_what_it_can() -> None:
    assert Pace(128).budget(0, 1) == 128 * UNDISTURBED


@pytest.mark.parametrize("decodes", [2, 16, 30])
def test_beside_answers_a_step_is_stretched_only_so_far(decodes: int) -> None:
    pace = Pace(1000)
    learn(pace, 0.010, 0.0006, 0.0003)
    alone_s = 0.010 + decodes * 0.0006
    took_s = alone_s + pace.budget(decodes, 1) * 0.0003
    assert took_s == pytest.approx(STRETCH * alone_s, rel=0.05)


def test_tokens_that_see_more_before_them_are_taken_in_smaller_pieces() -> None:
    pace = Pace(1000)
    long = sequence(range(2100))
    for turn in range(2000):
        start = (0, 500, 1000, 2000)[turn // 2 % 4]
        chunks = (Chunk(long, start, start + 50),) if turn % 2 else ()
        token_s = 0.0003 + start * 0.0000004
        pace.note(Batch(chunks, step(16, 0).decodes), 0.020 + len(chunks) * 50 * token_s)
    for done in (0, 500, 1200):
        took_s = pace.budget(16, 1, done) * (0.0003 + done * 0.0000004)
        assert took_s == pytest.approx((STRETCH - 1) * 0.020, rel=0.15)


def test_it_learns_the_pace_of_a_machine_that_becomes_slower() -> None:
    pace = Pace(1000)
    learn(pace, 0.010, 0.0006, 0.0003)
    learn(pace, 0.030, 0.0018, 0.0018)
    took_s = pace.budget(16, 1) * 0.0018
    assert took_s == pytest.approx((STRETCH - 1) * (0.030 + 16 * 0.0018), rel=0.1)


def test_it_finds_the_pace_where_prompts_never_end() -> None:
    pace = Pace(1000)
    learn(pace, 0.010, 0.0003, 0.003)
    budgets = []
    for _ in range(600):
        tokens = pace.budget(20, 1)
        pace.note(step(20, tokens), 0.010 + 20 * 0.0008 + tokens * 0.0006)
        budgets.append(tokens)
    took_s = 0.026 + max(budgets[-20:]) * 0.0006
    assert took_s == pytest.approx(STRETCH * 0.026, rel=0.05)
    assert budgets[-20:].count(0) in (1, 2)


def test_the_first_step_beside_answers_has_no_prompt() -> None:
    pace = Pace(128)
    pace.note(step(0, 128), 0.080)
    assert pace.budget(4, 9) == 0
    pace.note(step(4, 0), 0.020)
    assert pace.budget(4, 9) > 0


def test_a_step_with_nothing_in_it_teaches_nothing() -> None:
    pace = Pace(1000)
    learn(pace, 0.010, 0.0006, 0.0003)
    before = pace.budget(16, 1)
    pace.note(Batch(), 1e-6)
    assert pace.budget(16, 1) == before


def test_something_is_always_done_for_a_prompt_and_never_more_than_a_chunk() -> None:
    slow, fast = Pace(128), Pace(128)
    learn(slow, 0.010, 0.0006, 0.1)
    learn(fast, 0.010, 0.0006, 0.00001)
    assert slow.budget(16, 1) == LEAST_TOKENS
    assert fast.budget(16, 1) == 128


def test_many_prompts_weigh_more_than_few_answers() -> None:
    pace = Pace(100)
    pace.note(step(16, 0), 0.010)
    assert pace.budget(16, 2) == 112
    assert pace.budget(16, 9) == 200
    assert pace.budget(16, 17) == 300
    assert pace.budget(1, 31) == 100 * UNDISTURBED
