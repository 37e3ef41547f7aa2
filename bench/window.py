"""What the tokens of many chats look like during a stretch of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.answers import Answer, percentile


@dataclass(frozen=True, slots=True)
class Window:
    """A gap counts where it ends within the window; a time of 0 means that there was none."""

    length_s: float
    tokens_per_s: float
    per_token_p50_ms: float
    per_token_p99_ms: float
    longest_gap_ms: float
    """Of the gaps between two pieces of one answer, however many tokens the second brought."""

    @classmethod
    def of(cls, answers: Sequence[Answer], begin_s: float, end_s: float) -> Window:
        """Look at the answers from `begin_s` to `end_s`, in the time of `time.perf_counter`."""
        gaps = [gap for answer in answers for gap in answer.gaps(begin_s, end_s)]
        came = [
            tokens for a in answers for time_s, tokens in a.arrivals if begin_s <= time_s <= end_s
        ]
        return cls(
            length_s=end_s - begin_s,
            tokens_per_s=sum(came) / (end_s - begin_s),
            per_token_p50_ms=1000 * percentile(gaps, 0.50),
            per_token_p99_ms=1000 * percentile(gaps, 0.99),
            longest_gap_ms=1000
            * max((per_token * tokens for per_token, tokens in gaps), default=0),
        )

    @property
    def ratio(self) -> float:
        """How much longer the slowest tokens take than the usual one: p99 over p50."""
        return self.per_token_p99_ms / self.per_token_p50_ms if self.per_token_p50_ms else 0.0
