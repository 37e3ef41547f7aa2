"""How much of a prompt is taken at a time beside running answers."""

from __future__ import annotations

from tests.workers.test_slots import sequence
from workers.engines.base import Batch, Chunk
from workers.pace import LEAST_TOKENS, STRETCH, UNDISTURBED, Pace

DECODE = Batch(decodes=(sequence(range(3)),))


def mixed(tokens: int) -> Batch:
    """A step with an answer and a piece of a prompt."""
    return Batch((Chunk(sequence(range(tokens)), 0, tokens),), DECODE.decodes)


def test_a_prompt_alone_takes_what_it_can() -> None:
    assert Pace(128).budget(0, 1) == 128 * UNDISTURBED


def test_beside_answers_a_step_is_stretched_only_so_far() -> None:
    pace = Pace(1000)
    for _ in range(50):
        pace.note(DECODE, 0.020)
        pace.note(mixed(100), 0.020 + 100 * 0.001)
    tokens = pace.budget(16, 1)
    assert abs(0.020 + tokens * 0.001 - STRETCH * 0.020) < 0.002


def test_something_is_always_done_for_a_prompt_and_never_more_than_a_chunk() -> None:
    slow, fast = Pace(128), Pace(128)
    for _ in range(50):
        slow.note(DECODE, 0.020)
        slow.note(mixed(100), 10.0)
        fast.note(DECODE, 0.020)
        fast.note(mixed(100), 0.021)
    assert slow.budget(16, 1) == LEAST_TOKENS
    assert fast.budget(16, 1) == 128


def test_many_prompts_weigh_more_than_few_answers() -> None:
    pace = Pace(100)
    assert pace.budget(16, 2) == 100
    assert pace.budget(16, 17) == 500
    assert pace.budget(1, 31) == 100 * UNDISTURBED
