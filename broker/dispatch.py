"""Which of several queues gets a job: the shortest by time to wait, or a lottery by speed.

Used for the model queues of a group and for the foreign workers of one model. Speeds are measured
tokens per second; one that is not known yet counts as the average of the known ones. Knows nothing
of Redis beyond how many jobs a model has.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from rq.registry import StartedJobRegistry

from broker.queues import queue_key


@dataclass(frozen=True, slots=True)
class Candidate:
    """A queue that may get the job: its waiting and running jobs, and its speed in tokens/s."""

    name: str
    jobs: int
    speed: float = 0.0


def choose(
    candidates: Sequence[Candidate],
    method: str = "shortest_queue",
    rng: random.Random | None = None,
) -> Candidate:
    """Pick one of `candidates`, which must not be empty, by one of `settings.DISPATCH_METHODS`.

    `shortest_queue` takes the least of length over speed, the job itself counted in, so that a
    faster one wins among idle ones; `lottery` draws with the speeds as weights. Ties are broken at
    random.
    """
    draw = rng or random
    speeds = _speeds(candidates)
    if method == "lottery":
        return draw.choices(candidates, weights=speeds)[0]
    waits = [(each.jobs + 1) / speed for each, speed in zip(candidates, speeds, strict=True)]
    shortest = min(waits)
    return draw.choice(
        [each for each, wait in zip(candidates, waits, strict=True) if wait == shortest]
    )


def _speeds(candidates: Sequence[Candidate]) -> list[float]:
    known = [each.speed for each in candidates if each.speed > 0]
    usual = sum(known) / len(known) if known else 1.0
    return [each.speed if each.speed > 0 else usual for each in candidates]


def waiting_and_running(client: redis.Redis, models: Sequence[str]) -> dict[str, int]:
    """Jobs of each model that wait or run, as of now, in one round trip."""
    pipe = client.pipeline(transaction=False)
    for model in models:
        pipe.llen(queue_key(model))
        pipe.zcard(StartedJobRegistry.key_template.format(model))
    replies: list[Any] = pipe.execute()
    return {
        model: waiting + running
        for model, waiting, running in zip(models, replies[::2], replies[1::2], strict=True)
    }
