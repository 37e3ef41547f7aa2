"""The soak: it runs against real processes, and sees what it is there to see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench import soak
from bench.asks import Ask
from bench.memory import LEAST_S, WARM_UP_S, Life, trend
from bench.store import Store
from bench.tally import MOST_MB_PER_MIN, Tally
from bench.verdicts import Outcome, Verdict, judge, judge_error
from broker.events import Claim, Delta, End, Event, EventId, Timings, Usage
from tests.chaos.cases import Told


@pytest.mark.timeout(300)
def test_a_short_soak_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--minutes", "0.3", "--per-second", "4", "--no-compile", "--seed", "8"]
    status = soak.main([*arguments, "--json", str(file)])
    shown = capsys.readouterr().out
    assert status == 0, shown

    figures = json.loads(file.read_text())
    outcomes = figures["outcomes"]
    assert figures["problems"] == figures["evidence"] == []
    assert set(outcomes) <= {"answered", "cancelled", "refused"}, shown
    assert sum(outcomes.values()) == figures["sent"] == 72
    assert outcomes["answered"] > 30 and outcomes["cancelled"] > 5 and figures["resumed"] > 5
    assert sum(figures["faults"].values()) >= 2
    roles = {life["role"] for life in figures["memory"]}
    assert {"redis", "worker", "demo worker", "supervisor", "api", "api's master"} == roles
    assert all(max(life["sizes_mb"]) > 1 for life in figures["memory"])
    assert "lost 0, duplicated 0, wrong 0" in shown
    assert "all is well" in shown and "--seed 8" in shown


ASK = Ask("1", "text", {"model": "echo", "messages": []}, "a b c")
LOG: list[Event] = [
    Claim(EventId(1, 0), "w1"),
    Delta(EventId(1, 1), "a", (1,)),
    Claim(EventId(2, 0), "w2"),
    Delta(EventId(2, 1), " b", (2,)),
    End(EventId(2, 2), " c", (3,), "stop", Usage(3, 3), Timings(0.0, 0.0, 0.0)),
]


def told(*places: int) -> Told:
    """What a client heard: these entries of the log."""
    return Told([(float(place), LOG[place]) for place in places])


def test_a_whole_answer_is_answered() -> None:
    assert judge(ASK, told(1, 3, 4), LOG) == ("answered", "")


@pytest.mark.parametrize(
    ("ask", "heard", "log", "expected"),
    [
        (ASK, told(1, 4), LOG, ("lost", "not heard: 2-1")),
        (ASK, told(1, 3), LOG, ("lost", "not heard: 2-2")),
        (ASK, told(1, 3), LOG[:-1], ("lost", "its log has no end")),
        (ASK, told(1, 1, 3, 4), LOG, ("duplicated", "events came again")),
        (ASK, told(1, 3, 1, 4), LOG, ("duplicated", "events came again")),
        (
            ASK,
            told(1, 3, 4),
            [*LOG[:3], LOG[4]],
            ("wrong", "events were heard that are not in the log"),
        ),
        (
            replace(ASK, expected="a b d"),
            told(1, 3, 4),
            LOG,
            ("wrong", "the text differs from the undisturbed one"),
        ),
        (
            replace(ASK, expected="a b c d"),
            told(1, 3, 4),
            LOG,
            ("lost", "the end of its text is missing"),
        ),
        (
            replace(ASK, kind="stopped", stop_at=2),
            told(1, 3, 4),
            LOG,
            ("wrong", "it ended by 'stop'"),
        ),
    ],
)
def test_what_a_client_did_not_hear_once_is_seen(
    ask: Ask, heard: Told, log: list[Event], expected: tuple[str, str]
) -> None:
    assert judge(ask, heard, log) == expected


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        (told(1, 3), ("failed", "job_lost")),
        (told(1, 3, 3), ("duplicated", "events came again before job_lost")),
        (told(3), ("wrong", "the text before job_lost differs from the undisturbed one")),
    ],
)
def test_an_error_excuses_nothing_before_it(heard: Told, expected: tuple[str, str]) -> None:
    assert judge_error(ASK, heard, "job_lost") == expected


def test_an_end_that_redis_forgot_is_told_once() -> None:
    """The job runs again when its reader has long heard the end."""
    again = replace(LOG[4], id=EventId(9, 1), text="")  # type: ignore[type-var]
    log = [*LOG[:4], Claim(EventId(9, 0), "w3"), again]
    assert judge(ASK, told(1, 3, 4), log) == ("answered", "")
    assert judge(ASK, told(1, 3), log) == ("lost", "not heard: 9-1")
    assert judge(ASK, told(3, 4), log)[0] == "lost"


def test_another_text_under_the_same_id_is_wrong() -> None:
    heard = told(1, 3, 4)
    heard.events[1] = (3.0, Delta(EventId(2, 1), " x", (2,)))
    assert judge(ASK, heard, LOG) == ("wrong", "the text differs from the undisturbed one")


def test_who_leaves_has_heard_the_beginning() -> None:
    ask = replace(ASK, kind="leaving", stop_at=2, expected="a b c d e")
    end = End(EventId(2, 2), " c", (3,), "cancelled", Usage(3, 3), Timings(0.0, 0.0, 0.0))
    log = [*LOG[:-1], end]
    assert judge(ask, told(1, 3), log) == ("cancelled", "")
    assert judge(ask, told(3), log) == ("lost", "not heard: 1-1")
    assert judge(ask, told(1, 3), LOG) == ("wrong", "it ended by 'stop'")


def life(pid: int, since_s: int, for_s: float, level_mb: float, mb_per_min: float) -> Life:
    """A process that takes 100 MB in its first half minute, and grows steadily all the time."""
    times = [since_s + second for second in range(int(for_s))]
    sizes = [
        level_mb + 100 * min(1.0, (at - since_s) / 30) + mb_per_min * (at - since_s) / 60
        for at in times
    ]
    return Life("worker", pid, [float(at) for at in times], sizes)


@pytest.mark.parametrize("mb_per_min", [0.0, 2.0])
def test_growth_is_told_from_restarts_and_warm_up(mb_per_min: float) -> None:
    lives = [life(1, 0, 300, 50, mb_per_min), life(2, 300, 240, 10, mb_per_min)]
    found = trend("worker", [*lives, Life("api", 3, [0.0, 300.0], [1.0, 999.0])])
    assert found.mb_per_min == pytest.approx(mb_per_min, abs=1e-6)
    assert found.lives == 2


def test_a_short_life_has_no_trend() -> None:
    assert trend("worker", [life(1, 0, WARM_UP_S + LEAST_S - 1, 50, 9.0)]).mb_per_min is None


def tally(*lives: Life, verdicts: Sequence[Verdict] = (), rest: int = 0) -> Tally:
    """What ten minutes found, Redis having been away for two seconds."""
    before, after = Store(0, {}, ()), Store(rest, {}, ())
    away = [(100.0, 102.0)]
    return Tally(10.0, verdicts, {}, away, {"aside"}, lives, before, after, [], [])


def test_a_refusal_is_no_problem_while_redis_is_away() -> None:
    refused = Verdict(ASK, "refused", 101.0, "redis_unavailable")
    late = replace(refused, at_s=110.0, why="no_live_worker")
    found = tally(verdicts=[refused, late])
    assert found.counts["refused"] == 2
    assert found.problems() == ["refused though Redis answered: no_live_worker"]


def test_an_error_is_no_problem_where_a_job_was_set_aside() -> None:
    failed = Verdict(ASK, "failed", 1.0, "worker_failed", evidence={"job": "aside"})
    lost = replace(failed, why="job_lost", evidence={"job": "other"})
    assert tally(verdicts=[failed, lost]).problems() == [
        "ended in an error, and was not set aside: job_lost"
    ]


@pytest.mark.parametrize("outcome", ["lost", "duplicated", "wrong"])
def test_one_bad_answer_is_a_problem(outcome: Outcome) -> None:
    assert tally(verdicts=[Verdict(ASK, outcome, 1.0, "why")]).problems() == [f"{outcome}: 1"]


def test_memory_that_grows_is_a_problem() -> None:
    assert tally(life(1, 0, 300, 50, 0.9 * MOST_MB_PER_MIN), rest=2**20).problems() == []
    grown = tally(life(1, 0, 300, 50, 2 * MOST_MB_PER_MIN), rest=11 * 2**20)
    assert grown.problems() == [
        "worker grows by 2.00 MB per minute",
        "redis holds 11.0 MB more that belong to no key",
    ]
