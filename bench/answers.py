"""When the tokens of answers came, and the figures that follow from it.

Every target reports its answers in these terms, whether they came over HTTP or from this machine's
own engine. Times are those of `time.perf_counter`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Row = TypeVar("Row", bound=DataclassInstance)


class RequestFailed(Exception):
    """A request that a measurement cannot do without was not answered."""


Gap = tuple[float, float]


@dataclass(slots=True)
class Answer:
    """One answer: `arrivals` are the pieces of its text, each with its time and its tokens."""

    sent_s: float
    arrivals: list[tuple[float, float]] = field(default_factory=list)
    ended_s: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    error: str = ""

    @property
    def first_token_s(self) -> float:
        """Seconds from the request to the first text."""
        return self.arrivals[0][0] - self.sent_s

    def gaps(self, begin_s: float = -math.inf, end_s: float = math.inf) -> list[Gap]:
        """Return seconds per token of each piece but the first, with the tokens it brought.

        Only of the pieces that came from `begin_s` to `end_s`.
        """
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [
            ((now - before) / tokens, tokens)
            for (before, _), (now, tokens) in pairs
            if begin_s <= now <= end_s
        ]

    def require(self) -> Answer:
        """Return the answer if it is one.

        Raises:
            RequestFailed: it failed, or has no text.
        """
        if self.error or not self.arrivals:
            raise RequestFailed(self.error or "an answer without any text")
        return self


@dataclass(frozen=True, slots=True)
class Figures:
    """What one round says of one target at one level; a time of 0 means that nothing came."""

    tokens_per_s: float
    first_token_p50_ms: float
    first_token_p95_ms: float
    per_token_p50_ms: float
    per_token_p99_ms: float
    tokens_per_answer: float
    requests: int
    errors: int
    load_cpu_share: float
    """Share of one core that the load generator itself took."""


def summarize(answers: Sequence[Answer], load_cpu_s: float) -> Figures:
    """Boil one round's answers down."""
    good = [answer for answer in answers if not answer.error]
    wall_s = max(a.ended_s for a in answers) - min(a.sent_s for a in answers)
    firsts = [(answer.first_token_s, 1.0) for answer in good if answer.arrivals]
    gaps = [gap for answer in good for gap in answer.gaps()]
    tokens = sum(answer.tokens for answer in good)
    return Figures(
        tokens_per_s=tokens / wall_s,
        first_token_p50_ms=1000 * percentile(firsts, 0.50),
        first_token_p95_ms=1000 * percentile(firsts, 0.95),
        per_token_p50_ms=1000 * percentile(gaps, 0.50),
        per_token_p99_ms=1000 * percentile(gaps, 0.99),
        tokens_per_answer=tokens / len(good) if good else 0.0,
        requests=len(answers),
        errors=len(answers) - len(good),
        load_cpu_share=load_cpu_s / wall_s,
    )


def median_figures(rounds: Sequence[Figures]) -> Figures:
    """Return the median over the rounds of each figure; requests and errors are summed."""
    requests, errors = sum(one.requests for one in rounds), sum(one.errors for one in rounds)
    return replace(medians(rounds), requests=requests, errors=errors)


def medians(rows: Sequence[Row]) -> Row:
    """Return the median of each field of equal data classes that hold numbers only."""
    names = [each.name for each in fields(rows[0])]
    return type(rows[0])(
        **{name: statistics.median(getattr(row, name) for row in rows) for name in names}
    )


def percentile(samples: Sequence[tuple[float, float]], share: float) -> float:
    """Return the smallest value that `share` of the weight does not exceed (nearest rank)."""
    if not samples:
        return 0.0
    ordered = sorted(samples)
    wanted = share * math.fsum(weight for _, weight in ordered)
    reached = 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= wanted - 1e-9:
            return value
    return ordered[-1][0]
