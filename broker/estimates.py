"""How long something in a queue will take, from the rate at which its model's jobs end.

The rate is `ModelInfo.jobs_per_s`, which workers measure; nothing here reads it.
"""

from __future__ import annotations

import math
from typing import Final

MIN_RETRY_AFTER_S: Final = 1
MAX_RETRY_AFTER_S: Final = 60
"""The rate of now says little about what is further away."""


def turn_s(ahead: int, jobs_per_s: float) -> float | None:
    """Seconds until a slot is free for a job with `ahead` jobs before it; None if not known."""
    return (ahead + 1) / jobs_per_s if jobs_per_s > 0 else None


def retry_after_s(jobs: int, jobs_per_s: float) -> int | None:
    """Seconds, 1 to 60, until so many jobs have left the queue; None if the rate is not known."""
    if jobs_per_s <= 0:
        return None
    return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, math.ceil(jobs / jobs_per_s)))
