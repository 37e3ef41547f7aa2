"""What a soak found: its counts, the trends of memory, and what of that is not as it should be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from bench.memory import Life, Trend, trend
from bench.store import Store
from bench.verdicts import FAULTS, Verdict

REDIS = "redis"

REGISTERED_S = 5.0
"""After so long all workers are registered again with a Redis that was away."""

MOST_MB_PER_MIN = 1.0
"""Growth that counts as a leak: at three requests a second, 6 kB of each that stay for ever.

What allocators take over the first thousands of requests is up to half of it, and less each minute.
"""


@dataclass(frozen=True)
class Tally:
    """Everything that a run found."""

    minutes: float
    verdicts: Sequence[Verdict]
    strikes: dict[str, int]
    away: Sequence[tuple[float, float]]
    set_aside: Collection[str]
    lives: Sequence[Life]
    before: Store
    after: Store
    left_over: Sequence[str]
    tracebacks: Sequence[str]

    @property
    def counts(self) -> Counter[str]:
        """Requests by outcome."""
        return Counter(verdict.outcome for verdict in self.verdicts)

    @property
    def trends(self) -> list[Trend]:
        """One for each role."""
        roles = dict.fromkeys(life.role for life in self.lives)
        return [trend(role, self.lives) for role in roles]

    @property
    def redis_rest_mb(self) -> float:
        """By how much Redis grew beyond what its keys take.

        The keys are kept on purpose, each for its time (`broker.keys`): Redis as a whole grows for
        15 minutes, by its records for a day.
        """
        return (self.after.rest - self.before.rest) / 2**20

    def was_away(self, at_s: float) -> bool:
        """Whether Redis was away then, or so lately that no worker had registered again."""
        return any(gone_s <= at_s <= back_s + REGISTERED_S for gone_s, back_s in self.away)

    def problems(self) -> list[str]:
        """Return what should not be, one line each; nothing if all is well."""
        found = [f"{name}: {self.counts[name]}" for name in FAULTS if self.counts[name]]
        refused = [v for v in self.verdicts if v.outcome == "refused" and not self.was_away(v.at_s)]
        found += [f"refused though Redis answered: {verdict.why}" for verdict in refused]
        failed = [v for v in self.verdicts if v.outcome == "failed"]
        unclear = [v for v in failed if v.evidence["job"] not in self.set_aside]
        found += [f"ended in an error, and was not set aside: {verdict.why}" for verdict in unclear]
        found += [
            f"{each.role} grows by {each.mb_per_min:.2f} MB per minute"
            for each in self.trends
            if each.role != REDIS and (each.mb_per_min or 0) > MOST_MB_PER_MIN
        ]
        if self.redis_rest_mb > MOST_MB_PER_MIN * max(1, self.minutes):
            found.append(f"redis holds {self.redis_rest_mb:.1f} MB more that belong to no key")
        found += [f"a key that never expires: {name}" for name in self.after.everlasting]
        found += [f"left over: {each}" for each in self.left_over]
        return found + [f"a traceback in {text}" for text in self.tracebacks]

    def table(self) -> str:
        """Write everything that a reader wants to know."""
        counts = self.counts
        moved = sum(verdict.moved for verdict in self.verdicts)
        resumed = sum(verdict.returns > 0 for verdict in self.verdicts)
        returns = sum(verdict.returns for verdict in self.verdicts)
        why = Counter(v.why for v in self.verdicts if v.outcome in ("refused", "failed"))
        lines = [
            f"sent {len(self.verdicts)} in {self.minutes:.1f} min, answered {counts['answered']}, "
            f"cancelled {counts['cancelled']}, refused {counts['refused']}, "
            f"ended in an error {counts['failed']} (set aside {len(self.set_aside)})",
            f"resumed {resumed} ({returns} times), moved to another worker {moved}",
            ", ".join(f"{name} {counts[name]}" for name in FAULTS),
            f"refusals and errors: {_listed(why) or 'none'}",
            f"faults: {_listed(Counter(self.strikes))}",
            "",
            "process             lives   peak MB   MB/min   over (min)",
        ]
        lines += [
            f"{each.role:18s} {each.lives:6d} {each.peak_mb:9.0f} {_cell(each.mb_per_min)}"
            f" {each.fitted_min:12.1f}"
            for each in self.trends
        ]
        kept_mb = sum(self.after.kinds.values()) / 2**20
        lines.append(
            f"redis keeps {kept_mb:.1f} MB in keys that expire or are bounded; "
            f"beyond them it grew by {self.redis_rest_mb:.1f} MB"
        )
        return "\n".join(lines)

    def failures(self) -> list[str]:
        """Write what is needed to find the cause of each failure."""
        bad = (verdict for verdict in self.verdicts if verdict.evidence)
        return [f"{v.outcome}: {v.why}\n{json.dumps(v.evidence, indent=2)}" for v in bad]

    def as_json(self) -> dict[str, object]:
        """Return everything that is worth keeping."""
        return {
            "minutes": self.minutes,
            "sent": len(self.verdicts),
            "outcomes": dict(self.counts),
            "why": dict(Counter(f"{v.outcome}: {v.why}" for v in self.verdicts if v.why)),
            "resumed": sum(v.returns > 0 for v in self.verdicts),
            "moved": sum(v.moved for v in self.verdicts),
            "faults": self.strikes,
            "trends": [asdict(each) for each in self.trends],
            "redis": {"before": asdict(self.before), "after": asdict(self.after)},
            "memory": [asdict(life) for life in self.lives],
            "problems": self.problems(),
            "evidence": [v.evidence for v in self.verdicts if v.evidence],
        }


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _cell(value: float | None) -> str:
    return f"{'-':>8s}" if value is None else f"{value:+8.2f}"
