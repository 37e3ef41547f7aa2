"""Tokens are drawn from the right distribution, and the same way wherever the row stands."""

from __future__ import annotations

import pytest
import torch

from workers.sampling import Draw, sample, uniform

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 5.0])


def draw(logits: torch.Tensor, **wish: float) -> int:
    """Draw from one row."""
    chosen = {"temperature": 1.0, "top_p": 1.0, "seed": 0, "position": 0, **wish}
    return sample(logits[None], [Draw(**chosen)])[0]  # type: ignore[arg-type]


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert [draw(LOGITS, temperature=0.0, seed=seed) for seed in range(5)] == [4] * 5


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    drawn = [draw(logits, seed=3, position=position) for position in range(4000)]
    shares = [drawn.count(token) / len(drawn) for token in range(3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_a_higher_temperature_flattens_the_distribution() -> None:
    cold = [draw(LOGITS, temperature=0.3, position=position) for position in range(300)]
    hot = [draw(LOGITS, temperature=2.0, position=position) for position in range(300)]
    assert cold.count(4) > 290
    assert len(set(hot)) >= 4


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    logits = torch.tensor([0.1, 0.4, 0.3, 0.2]).log()
    for top_p, kept in ((0.3, {1}), (0.6, {1, 2}), (0.85, {1, 2, 3})):
        drawn = {draw(logits, top_p=top_p, position=position) for position in range(200)}
        assert drawn == kept


def test_a_nucleus_wider_than_the_first_look_is_found_whole() -> None:
    drawn = {draw(torch.zeros(1000), top_p=0.9, position=position) for position in range(2000)}
    assert len(drawn) > 700


def test_a_draw_depends_on_seed_and_position_only() -> None:
    logits = torch.randn((4, 500), generator=torch.Generator().manual_seed(1))
    draws = [
        Draw(1.0, 1.0, 5, 9),
        Draw(0.0, 1.0, 5, 9),
        Draw(0.7, 0.8, 6, 9),
        Draw(1.5, 0.95, 5, 10),
    ]
    together = sample(logits, draws)
    assert [sample(logits[row : row + 1], [draws[row]])[0] for row in range(4)] == together
    assert sample(logits.flip(0), draws[::-1]) == together[::-1]


def test_seeds_and_positions_give_different_numbers() -> None:
    numbers = {uniform(seed, position) for seed in range(30) for position in range(30)}
    assert len(numbers) == 900
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert uniform(2**63 - 1, 0) == uniform(2**63 - 1, 0)
