"""Strengths against truths that votes were drawn from, and against sums done by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from broker.battles import Duel, Duels
from broker.strengths import CENTRE, PER_LOGIT, fit, standings


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def root(rises: Any, low: float = 0.0, high: float = 50.0) -> float:
    """Where a function that rises crosses zero, by halving."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) > 0 else (middle, high)
    return low


@pytest.mark.parametrize(("won", "lost", "ties"), [(3, 1, 0), (1, 0, 0), (7, 2, 4), (20, 0, 0)])
def test_two_models_come_out_as_computed_by_hand(won: int, lost: int, ties: int) -> None:
    """Both start with a tie against the average, which lies between them."""
    votes = won + lost + ties
    score = won + ties / 2 + 0.5
    apart = root(lambda d: votes * sigmoid(d) + sigmoid(d / 2) - score)
    first, second = standings({("a", "b"): Duel(won, lost, ties)})
    assert (first.model, second.model) == ("a", "b")
    assert first.rating == pytest.approx(CENTRE + PER_LOGIT * apart / 2, abs=1e-6)
    assert first.rating + second.rating == pytest.approx(2 * CENTRE)


def test_many_votes_come_to_the_textbook_odds_and_error() -> None:
    strengths, covariance = fit(np.array([[0.0, 3000.0], [1000.0, 0.0]]), np.zeros((2, 2)))
    assert strengths[0] - strengths[1] == pytest.approx(math.log(3), abs=1e-3)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert error == pytest.approx(math.sqrt(1 / 3000 + 1 / 1000), rel=1e-2)


def draw(
    rng: np.random.Generator, models: int, votes: int, tie_share: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Strengths, and votes drawn from them; ties take the same from either side's wins."""
    truth = rng.normal(0, 0.7, models)
    truth -= truth.mean()
    left = rng.integers(0, models, votes)
    right = (left + rng.integers(1, models, votes)) % models
    wins = 1 / (1 + np.exp(truth[right] - truth[left]))
    tie = tie_share * 2 * np.minimum(wins, 1 - wins)
    drawn = rng.random(votes)
    won, tied = np.zeros((2, models, models))
    is_won, is_tied = drawn < wins - tie / 2, np.abs(drawn - wins) <= tie / 2
    is_lost = ~is_won & ~is_tied
    np.add.at(won, (left[is_won], right[is_won]), 1)
    np.add.at(won, (right[is_lost], left[is_lost]), 1)
    np.add.at(tied, (left[is_tied], right[is_tied]), 1)
    return truth, won, tied + tied.T


@pytest.mark.parametrize(
    ("models", "votes", "tie_share", "least", "most"),
    [
        (2, 200, 0.0, 0.93, 0.97),
        (5, 1000, 0.0, 0.93, 0.97),
        (5, 1000, 0.5, 0.93, 0.97),  # half of what could be a tie is one
        (8, 400, 0.3, 0.93, 0.97),
        (5, 30, 0.3, 0.93, 1.0),  # hardly any votes: wide, never too narrow
    ],
)
def test_nineteen_of_twenty_intervals_have_the_truth(
    models: int, votes: int, tie_share: float, least: float, most: float
) -> None:
    rng = np.random.default_rng(20)
    hits = []
    for _ in range(600):
        truth, won, ties = draw(rng, models, votes, tie_share)
        strengths, covariance = fit(won, ties)
        hits.append(np.abs(strengths - truth) < 1.96 * np.sqrt(np.diag(covariance)))
    assert least <= np.mean(hits) <= most


def test_strengths_approach_the_truth() -> None:
    truth, won, ties = draw(np.random.default_rng(3), 6, 200_000, 0.3)
    assert np.abs(fit(won, ties)[0] - truth).max() < 0.03


def test_any_votes_have_one_best_fit() -> None:
    """At the best fit each model scores what its strength lets expect, the prior's tie included."""
    rng = np.random.default_rng(5)
    for trial in range(200):
        models = int(rng.integers(2, 12))
        shape = (models, models)
        won = np.where(rng.random(shape) < 0.5, 0, np.floor(10 ** rng.uniform(0, 5, shape)))
        won = np.triu(won, 1) if trial % 3 == 0 else won * (1 - np.eye(models))  # some never lose
        ties = np.triu(np.where(rng.random(shape) < 0.7, 0, rng.integers(0, 1000, shape)), 1)
        ties = ties + ties.T
        strengths, covariance = fit(won, ties)
        assert abs(strengths.mean()) < 1e-9 and (np.diag(covariance) >= 0).all()
        missing = [
            won[i].sum()
            + ties[i].sum() / 2
            - sum(
                (won[i, j] + won[j, i] + ties[i, j]) * sigmoid(strengths[i] - strengths[j])
                for j in range(models)
            )
            for i in range(models)
        ]
        # what votes and strengths leave is within what the prior's single tie may add
        assert max(map(abs, missing)) <= 0.5 + 1e-3


def test_a_model_that_never_lost_has_a_finite_rating_that_grows_with_its_wins() -> None:
    few, many, lots = (
        standings({("a", "b"): Duel(wins, 0), ("b", "c"): Duel(5, 5)})[0]
        for wins in (2, 20, 1_000_000)
    )
    assert few.model == many.model == lots.model == "a"
    assert few.rating < many.rating < lots.rating < CENTRE + 20 * PER_LOGIT
    assert few.low < CENTRE < many.low


def test_one_vote_says_next_to_nothing() -> None:
    winner, loser = standings({("a", "b"): Duel(0, 1)})
    assert (winner.model, winner.won, winner.lost, winner.votes) == ("b", 1, 0, 1)
    assert (loser.won, loser.lost, loser.votes) == (0, 1, 1)
    assert winner.low < loser.rating < winner.rating < loser.high
    assert winner.rank == loser.rank == 1


def test_no_votes_are_an_empty_board() -> None:
    assert standings({}) == []


def test_only_ties_are_equal_ratings_with_an_interval() -> None:
    first, second = standings({("a", "b"): Duel(ties=5, bothbad=2)})
    assert first.rating == second.rating == pytest.approx(CENTRE)
    assert first.high - first.low > 100
    assert (first.ties, first.bothbad, second.bothbad) == (5, 2, 2)


def test_models_that_never_met_are_rated_in_groups_of_their_own() -> None:
    duels: Duels = {
        ("a", "b"): Duel(50, 10),
        ("c", "d"): Duel(10, 50),
        ("x", "y"): Duel(5, 5),
        ("d", "e"): Duel(30, 30),
        ("b", "f"): Duel(1, 1),
    }
    rows = standings(duels)
    assert [(row.group, row.model) for row in rows] == [
        (0, "a"),
        (0, "f"),
        (0, "b"),
        (1, "d"),
        (1, "e"),
        (1, "c"),
        (2, "x"),
        (2, "y"),
    ]
    alone = standings({pair: duel for pair, duel in duels.items() if "b" in pair})
    assert [row.rating for row in rows[:3]] == [row.rating for row in alone]
    for group in (0, 1, 2):
        mean = np.mean([row.rating for row in rows if row.group == group])
        assert mean == pytest.approx(CENTRE)


def test_ranks_are_shared_until_the_intervals_are_apart() -> None:
    clear = standings({("a", "b"): Duel(90, 10), ("b", "c"): Duel(53, 47)})
    assert [(row.model, row.rank) for row in clear] == [("a", 1), ("b", 2), ("c", 2)]
