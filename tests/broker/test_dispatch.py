"""Which queue gets a job: by simulation, and by hand where one answer is right."""

from __future__ import annotations

import heapq
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product

import pytest
import redis

from broker.dispatch import Candidate, choose, waiting_and_running
from broker.errors import ConfigurationError
from broker.groups import parse_groups
from broker.queues import queue_key

SPEEDS = {"slow": 1.0, "middle": 2.0, "fast": 4.0}
JOBS = 10_000
LOAD = 0.8

Pick = Callable[[dict[str, int]], str]


def by(method: str, rng: random.Random) -> Pick:
    """Dispatch as the product does: by how many jobs each queue has, and by measured speeds."""

    def pick(jobs: dict[str, int]) -> str:
        queues = [Candidate(name, jobs[name], speed) for name, speed in SPEEDS.items()]
        return choose(queues, method, rng).name

    return pick


def split(shares: Sequence[float], rng: random.Random) -> Pick:
    """Dispatch by fixed shares, whatever the queues look like."""
    return lambda jobs: rng.choices(list(SPEEDS), weights=shares)[0]


def waits(pick: Pick, seed: int) -> list[float]:
    """Waiting times of jobs of random size that come at random to one server per queue, in s."""
    rng = random.Random(seed)
    rate = LOAD * sum(SPEEDS.values())
    free_s = dict.fromkeys(SPEEDS, 0.0)
    jobs = dict.fromkeys(SPEEDS, 0)
    ends: list[tuple[float, str]] = []
    now, waited = 0.0, []
    for _ in range(JOBS):
        now += rng.expovariate(rate)
        while ends and ends[0][0] <= now:
            jobs[heapq.heappop(ends)[1]] -= 1
        name = pick(jobs)
        begins = max(now, free_s[name])
        free_s[name] = begins + rng.expovariate(1.0) / SPEEDS[name]
        jobs[name] += 1
        heapq.heappush(ends, (free_s[name], name))
        waited.append(begins - now)
    return waited


def p95(waited: list[float]) -> float:
    return statistics.quantiles(waited, n=20)[-1]


def test_a_lottery_gives_each_its_share_by_speed() -> None:
    shares: Counter[str] = Counter()
    rounds = 10
    weights = {name: speed / sum(SPEEDS.values()) for name, speed in SPEEDS.items()}
    for seed in range(rounds):
        pick = by("lottery", random.Random(seed))
        drawn = Counter(pick(dict.fromkeys(SPEEDS, 0)) for _ in range(JOBS))
        assert all(drawn[name] / JOBS == pytest.approx(weights[name], abs=0.03) for name in SPEEDS)
        shares.update(drawn)
    # A share of one in seven is this exact only over more jobs.
    for name, weight in weights.items():
        assert shares[name] / (rounds * JOBS) == pytest.approx(weight, rel=0.03)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_shortest_queue_waits_less_than_the_best_split_by_fixed_shares(seed: int) -> None:
    grid = [step / 20 for step in range(1, 19)]
    splits = [(a, b, 1 - a - b) for a, b in product(grid, grid) if a + b < 1]
    best = min(p95(waits(split(shares, random.Random(seed)), seed)) for shares in splits)
    assert p95(waits(by("shortest_queue", random.Random(seed)), seed)) <= best


def test_an_idle_fast_queue_comes_before_an_idle_slow_one() -> None:
    queues = [Candidate("slow", 0, 10.0), Candidate("fast", 0, 40.0)]
    assert {choose(queues).name for _ in range(50)} == {"fast"}
    busier = [Candidate("slow", 0, 10.0), Candidate("fast", 4, 40.0)]
    assert {choose(busier).name for _ in range(50)} == {"slow"}


@pytest.mark.parametrize("method", ["shortest_queue", "lottery"])
def test_ties_are_broken_at_random(method: str) -> None:
    queues = [Candidate(name, 3, 5.0) for name in ("a", "b", "c")]
    rng = random.Random(7)
    drawn = Counter(choose(queues, method, rng).name for _ in range(3000))
    assert all(900 < drawn[name] < 1100 for name in ("a", "b", "c"))


def test_a_speed_that_is_not_known_yet_counts_as_the_usual_one() -> None:
    queues = [Candidate("known", 5, 10.0), Candidate("new", 0), Candidate("other", 5, 30.0)]
    assert choose(queues).name == "new"
    assert choose([Candidate("new", 1), Candidate("newer", 0)]).name == "newer"


def test_jobs_that_wait_and_jobs_that_run_count(client: redis.Redis) -> None:
    client.rpush(queue_key("dispatch-a"), "1", "2")
    client.zadd("rq:wip:dispatch-a", {"3:x": 1.0})
    found = waiting_and_running(client, ["dispatch-a", "dispatch-b"])
    assert found == {"dispatch-a": 3, "dispatch-b": 0}
    client.delete(queue_key("dispatch-a"), "rq:wip:dispatch-a")


def test_groups_are_read_from_their_form() -> None:
    assert parse_groups(["fast=a,b", "big = c "]) == {"fast": ("a", "b"), "big": ("c",)}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["fast"], "write it as name=model,model"),
        (["=a"], "write it as"),
        (["fast="], "at least one model"),
        (["x=a", "x=b"], "given twice"),
        (["x=x,a"], "cannot be its own member"),
    ],
)
def test_a_group_of_another_form_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_groups(texts)
