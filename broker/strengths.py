"""Bradley-Terry strengths of models from votes on pairs of answers, with their uncertainty.

The model: with strengths a and b, the first is preferred with probability 1 / (1 + exp(b - a)); a
tie is half a win for each. docs/leaderboard.md says what else is assumed and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from broker.battles import Duels

Array = np.ndarray[Any, np.dtype[np.float64]]

PRIOR_VOTES: Final = 1.0
"""Ties with an average model that every model starts with: they keep strengths finite."""

CENTRE: Final = 1000.0
PER_LOGIT: Final = 400 / np.log(10)
"""Ratings are on Elo's scale: 400 more are odds of ten to one."""

_NORMAL_95: Final = 1.959964
_TOLERANCE: Final = 1e-6
"""In log-odds: a five-thousandth of a rating point."""
_STEPS: Final = 200


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's place.

    `rating` is 1000 for the average of its group, and [`low`, `high`] the interval that has it with
    95 % confidence. `rank` is 1 + the number of models of the group that are surely better (their
    interval lies above), so neighbours may share it; `last_rank` is the number of those that are
    not surely worse. Ratings and ranks of different `group`s, whose models were never compared,
    even by way of others, cannot be compared either.
    """

    model: str
    rating: float
    low: float
    high: float
    rank: int
    last_rank: int
    group: int
    votes: int
    won: int
    lost: int
    ties: int
    bothbad: int


def standings(duels: Duels) -> list[Standing]:
    """All models that were compared, the group with the most models first, then the best first."""
    rows = [
        row for group, models in enumerate(_groups(duels)) for row in _rate(models, duels, group)
    ]
    return sorted(rows, key=lambda row: (row.group, -row.rating, row.model))


def fit(won: Array, ties: Array) -> tuple[Array, Array]:
    """Find strengths and their covariance, both relative to the models' average.

    Args:
        won: [models, models], how often the row's model beat the column's.
        ties: [models, models], symmetric, how often they tied.

    Returns:
        Strengths in natural log-odds [models], and their covariance [models, models].
    """
    votes = won + won.T + ties
    scores = (won + ties / 2).sum(axis=1) + PRIOR_VOTES / 2
    strengths = np.zeros(len(won))
    for _ in range(_STEPS):
        expected, information = _expected(strengths, votes)
        step = np.linalg.solve(information, scores - expected)
        step /= max(1.0, np.abs(step).max())  # far from the top the parabola is wrong
        strengths += step
        if np.abs(step).max() < _TOLERANCE:
            break
    else:
        raise ArithmeticError("the strengths do not converge")
    inverse = np.linalg.inv(_expected(strengths, votes)[1])
    centre = np.eye(len(won)) - 1 / len(won)
    spread = inverse @ _variance(strengths, votes, ties) @ inverse
    return centre @ strengths, centre @ spread @ centre


def _probabilities(strengths: Array) -> Array:
    difference = strengths[:, None] - strengths[None, :]
    half: Array = np.tanh(difference / 2) / 2  # does not overflow
    return 0.5 + half


def _expected(strengths: Array, votes: Array) -> tuple[Array, Array]:
    """Scores that the strengths let expect [models], and the information matrix."""
    wins = _probabilities(strengths)
    prior = 0.5 + np.tanh(strengths / 2) / 2
    pairs = votes * wins * (1 - wins)
    information = np.diag(pairs.sum(axis=1) + PRIOR_VOTES * prior * (1 - prior)) - pairs
    return (votes * wins).sum(axis=1) + PRIOR_VOTES * prior, information


def _variance(strengths: Array, votes: Array, ties: Array) -> Array:
    """How far scores scatter: the information, less what ties, being certain halves, take away.

    A vote that may be a tie has variance p (1 - p) - t / 4, where t is the share of ties, here
    with a win for each side added so that a few ties in a row do not look like certainty.
    """
    information = _expected(strengths, votes)[1]
    wins = _probabilities(strengths)
    less = np.minimum(votes * wins * (1 - wins), ties * votes / (votes + 2) / 4)
    return information - np.diag(less.sum(axis=1)) + less


def _rate(models: list[str], duels: Duels, group: int) -> list[Standing]:
    place = {model: index for index, model in enumerate(models)}
    won, ties = np.zeros((2, len(models), len(models)))
    bothbad = np.zeros(len(models), dtype=int)
    for pair, duel in duels.items():
        if pair[0] in place:
            first, second = (place[model] for model in pair)
            won[first, second], won[second, first] = duel.first_won, duel.second_won
            ties[first, second] = ties[second, first] = duel.ties
            bothbad[[first, second]] += duel.bothbad
    strengths, covariance = fit(won, ties)
    ratings = CENTRE + PER_LOGIT * strengths
    reach = PER_LOGIT * _NORMAL_95 * np.sqrt(np.diag(covariance))
    low, high = ratings - reach, ratings + reach
    return [
        Standing(
            model=model,
            rating=float(ratings[index]),
            low=float(low[index]),
            high=float(high[index]),
            rank=1 + int((low > high[index]).sum()),
            last_rank=len(models) - int((high < low[index]).sum()),
            group=group,
            votes=int(won[index].sum() + won[:, index].sum() + ties[index].sum()),
            won=int(won[index].sum()),
            lost=int(won[:, index].sum()),
            ties=int(ties[index].sum()),
            bothbad=int(bothbad[index]),
        )
        for model, index in place.items()
    ]


def _groups(duels: Duels) -> list[list[str]]:
    """Models that were compared, directly or by way of others; the largest group first."""
    groups: list[set[str]] = []
    for pair in duels:
        joined = set(pair).union(*(group for group in groups if not group.isdisjoint(pair)))
        groups = [group for group in groups if group.isdisjoint(pair)] + [joined]
    return sorted((sorted(group) for group in groups), key=lambda group: (-len(group), group))
