"""What is told about the future of a queue."""

from __future__ import annotations

import pytest

from broker.estimates import retry_after_s, turn_s


@pytest.mark.parametrize(
    ("ahead", "jobs_per_s", "seconds"),
    [(0, 0.25, 4.0), (2, 0.25, 12.0), (9, 40.0, 0.25), (0, 0.0, None), (7, 0.0, None)],
)
def test_a_turn_comes_when_those_before_have_left(
    ahead: int, jobs_per_s: float, seconds: float | None
) -> None:
    assert turn_s(ahead, jobs_per_s) == seconds


@pytest.mark.parametrize(
    ("jobs", "jobs_per_s", "seconds"),
    [
        (1, 100.0, 1),
        (1, 0.5, 2),
        (1, 0.4, 3),
        (5, 2.0, 3),
        (1, 1 / 60, 60),
        (1, 0.001, 60),
        (1, 0.0, None),
    ],
)
def test_a_client_is_told_whole_seconds_within_bounds(
    jobs: int, jobs_per_s: float, seconds: int | None
) -> None:
    assert retry_after_s(jobs, jobs_per_s) == seconds
