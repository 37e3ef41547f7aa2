"""What became of one request: what its client heard, beside the log of its job.

Knows nothing of connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.asks import Ask
from broker.events import Claim, Delta, End, Event
from tests.chaos.cases import Told

Outcome = Literal["answered", "cancelled", "refused", "failed", "lost", "duplicated", "wrong"]
FAULTS: tuple[Outcome, ...] = ("lost", "duplicated", "wrong")


@dataclass(frozen=True)
class Verdict:
    """What became of one request, and when; `returns` counts the connections after the first."""

    ask: Ask
    outcome: Outcome
    at_s: float
    why: str = ""
    returns: int = 0
    moved: bool = False
    evidence: dict[str, Any] = field(default_factory=dict)


def judge(ask: Ask, told: Told, log: Sequence[Event]) -> tuple[Outcome, str]:
    """Compare what a client heard with the log of its job, which has ended; say what is wrong.

    A client that left has heard the beginning of it, any other one all.
    """
    end = log[-1] if log else None
    if not isinstance(end, End):
        return "lost", "its log has no end"
    if told.duplicated:
        return "duplicated", "events came again"
    heard = told.ids
    logged = [event.id for event in log if isinstance(event, End) or _text([event])]
    if ask.kind == "leaving":
        logged = logged[: len(heard)]
    if _was_told_whole(ask, told) and told.ids[-1] not in logged:
        # Redis was killed before its file had the end, so the job ran again; its reader had left.
        logged = [event_id for event_id in logged if event_id < told.ids[-1]] + [told.ids[-1]]
        return ("answered", "") if heard == logged else ("wrong", "its log is another one")
    if missing := [event_id for event_id in logged if event_id not in set(heard)]:
        return "lost", f"not heard: {' '.join(map(str, missing))}"
    if heard != logged:
        return "wrong", "events were heard that are not in the log"
    if not (text := _text(log)).startswith(told.text) or not ask.expected.startswith(text):
        return "wrong", "the text differs from the undisturbed one"
    is_cancelled = end.finish_reason == "cancelled"
    if is_cancelled != bool(ask.stop_at):
        return "wrong", f"it ended by {end.finish_reason!r}"
    if not is_cancelled and text != ask.expected:
        return "lost", "the end of its text is missing"
    return "cancelled" if is_cancelled else "answered", ""


def judge_error(ask: Ask, told: Told, code: str) -> tuple[Outcome, str]:
    """Look at what a client heard before its answer ended in an error."""
    if told.duplicated:
        return "duplicated", f"events came again before {code}"
    if not ask.expected.startswith(told.text):
        return "wrong", f"the text before {code} differs from the undisturbed one"
    return "failed", code


def evidence(ask: Ask, told: Told, job_id: str, log: Sequence[Event]) -> dict[str, Any]:
    """Return what it takes to find the cause of a failure."""
    return {
        "job": job_id,
        "kind": ask.kind,
        "request": {name: value for name, value in ask.body.items() if name != "messages"},
        "cuts": ask.cuts,
        "stop_at": ask.stop_at,
        "heard": " ".join(map(str, told.ids)),
        "heard_text": told.text[-300:],
        "expected_text": ask.expected[-300:],
        "claims": [repr(event) for event in log if isinstance(event, Claim)],
        "last_events": [repr(event) for event in log[-5:]],
    }


def _was_told_whole(ask: Ask, told: Told) -> bool:
    return told.ended and told.lost == 0 and told.text == ask.expected


def _text(log: Sequence[Event]) -> str:
    return "".join(event.text for event in log if isinstance(event, Delta | End))
