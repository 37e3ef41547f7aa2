"""Who runs, who waits, and how every request ends exactly once."""

from __future__ import annotations

import pytest

from broker.errors import InvalidRequest
from tests.workers.reference import collect, ids, request, run, text
from workers.engines.base import Batch, EngineOptions, Sampled
from workers.engines.echo import EchoEngine
from workers.scheduler import Output, Scheduler
from workers.sequence import Sequence


def echo(slots: int = 2, path: str = "echo") -> EchoEngine:
    """An engine that is cheap to run."""
    return EchoEngine(EngineOptions(path, engine="echo", slots=slots), lambda percent: None)


class FragileEngine(EchoEngine):
    """An engine that runs out of memory whenever some request takes part."""

    chunk_tokens = 4

    def __init__(self, *culprits: str, decoding_only: bool = False) -> None:
        super().__init__(EngineOptions("echo", engine="echo", slots=8), lambda percent: None)
        self._culprits = culprits
        self._decoding_only = decoding_only
        self.released: list[str] = []

    def step(self, batch: Batch) -> list[Sampled | None]:
        """Fail if a culprit is in the batch."""
        concerned = batch.decodes if self._decoding_only else batch.sequences
        if any(sequence.request_id in self._culprits for sequence in concerned):
            raise MemoryError("0xdeadbeef")
        return super().step(batch)

    def release(self, sequence: object) -> None:
        """Note who was released."""
        self.released.append(sequence.request_id)  # type: ignore[attr-defined]


def add(scheduler: Scheduler, engine: EchoEngine, *names: str, words: str = "a b c") -> None:
    """Add a request of each name."""
    for name in names:
        scheduler.add(engine.prepare(request(name, words), {}))


def test_requests_get_slots_in_the_order_they_came() -> None:
    engine = echo(slots=2)
    scheduler = Scheduler(engine)
    add(scheduler, engine, "1", "2", "3", "4")
    ended = []
    while scheduler.has_work:
        assert scheduler.running <= 2
        ended += [o.request_id for o in scheduler.step() if o.finish_reason]
    assert ended == ["1", "2", "3", "4"]
    assert (scheduler.running, scheduler.waiting) == (0, 0)


def test_each_answer_has_one_last_output_with_its_usage() -> None:
    engine = echo()
    scheduler = Scheduler(engine)
    add(scheduler, engine, "1", "2", "3", words="one two three")
    for outputs in run(scheduler).values():
        assert [output.finish_reason for output in outputs[:-1]] == [None] * (len(outputs) - 1)
        assert outputs[-1].finish_reason == "stop"
        assert outputs[-1].usage is not None
        assert outputs[-1].usage.completion_tokens == len(ids(outputs))
        assert text(outputs) == "one two three"


def test_a_dropped_request_may_come_again_and_nothing_is_told_of_the_first() -> None:
    engine = echo(slots=1)
    scheduler = Scheduler(engine)
    add(scheduler, engine, "1", words="one two three")
    scheduler.step()
    scheduler.cancel("1")
    scheduler.drop("1")
    assert not scheduler.has_work
    add(scheduler, engine, "1", words="four five")
    scheduler.step()
    scheduler.drop("1")
    add(scheduler, engine, "1", words="six seven")
    (outputs,) = run(scheduler).values()
    assert (text(outputs), outputs[-1].finish_reason) == ("six seven", "stop")


def one_runs_and_one_waits() -> Scheduler:
    """A scheduler with the requests "first" and "second"."""
    engine = echo(slots=1)
    scheduler = Scheduler(engine)
    add(scheduler, engine, "first", "second")
    scheduler.step()
    return scheduler


def test_a_running_request_is_cancelled_at_once() -> None:
    scheduler = one_runs_and_one_waits()
    assert scheduler.cancel("first")
    assert scheduler.running == 0
    outputs = scheduler.step()
    assert {output.request_id for output in outputs} == {"first", "second"}
    assert outputs[-1] == Output("first", "", (), "cancelled", outputs[-1].usage)


def test_a_waiting_request_is_cancelled_at_once() -> None:
    scheduler = one_runs_and_one_waits()
    assert scheduler.cancel("second")
    assert scheduler.waiting == 0
    assert [o.finish_reason for o in run(scheduler)["second"]] == ["cancelled"]


def test_an_unknown_or_ended_request_cannot_be_cancelled() -> None:
    engine = echo()
    scheduler = Scheduler(engine)
    assert not scheduler.cancel("nobody")
    add(scheduler, engine, "done")
    run(scheduler)
    assert not scheduler.cancel("done")
    assert not scheduler.has_work


def test_the_same_request_cannot_run_twice() -> None:
    engine = echo()
    scheduler = Scheduler(engine)
    add(scheduler, engine, "1")
    with pytest.raises(ValueError, match="already scheduled"):
        add(scheduler, engine, "1")


def test_a_request_that_breaks_the_engine_fails_alone() -> None:
    engine = FragileEngine("3", "6")
    scheduler = Scheduler(engine)
    add(scheduler, engine, *"1234567")
    outputs = run(scheduler)
    for name, answer in outputs.items():
        assert [output.error is not None for output in answer][-1] == (name in "36")
        assert text(answer) == ("" if name in "36" else "a b c")
    assert sorted(engine.released) == sorted("1234567")


def test_a_request_may_break_the_engine_late() -> None:
    engine = FragileEngine("2", decoding_only=True)
    scheduler = Scheduler(engine)
    add(scheduler, engine, "1", "2", "3")
    outputs = run(scheduler)
    assert text(outputs["1"]) == text(outputs["3"]) == "a b c"
    assert text(outputs["2"]) == "a"
    assert outputs["2"][-1].error is not None


def test_what_broke_the_engine_is_not_told_to_the_sender() -> None:
    engine = FragileEngine("1")
    scheduler = Scheduler(engine)
    add(scheduler, engine, "1")
    error = run(scheduler)["1"][-1].error
    assert error is not None
    assert (error.status, error.code) == (500, "worker_failed")
    assert "deadbeef" not in error.message


def test_an_error_meant_for_the_sender_is_passed_on() -> None:
    class PickyEngine(EchoEngine):
        def step(self, batch: Batch) -> list[Sampled | None]:
            raise InvalidRequest("not like this")

    engine = PickyEngine(EngineOptions("echo", engine="echo"), lambda percent: None)
    scheduler = Scheduler(engine)
    add(scheduler, engine, "1")
    error = run(scheduler)["1"][-1].error
    assert error is not None
    assert error.message == "not like this"


def test_a_request_that_cannot_be_admitted_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = echo()
    scheduler = Scheduler(engine)

    def admit(sequence: Sequence) -> bool:
        if sequence.request_id == "2":
            raise MemoryError("no room to copy to")
        return True

    monkeypatch.setattr(engine, "admit", admit)
    add(scheduler, engine, "1", "2", "3")
    outputs = run(scheduler)
    assert outputs["2"][-1].error is not None
    assert [outputs[name][-1].finish_reason for name in ("1", "3")] == ["stop", "stop"]


def test_a_long_prompt_does_not_hold_up_running_answers() -> None:
    engine = FragileEngine()
    scheduler = Scheduler(engine)
    add(scheduler, engine, "short", words="1 2 3 4 5 6 7 8 9 10 11 12")
    for _ in range(3):
        scheduler.step()
    add(scheduler, engine, "long", words=" ".join(map(str, range(20))))
    for _ in range(4):
        assert {output.request_id for output in scheduler.step()} == {"short"}
    assert {output.request_id for output in scheduler.step()} == {"short", "long"}


def test_a_resumed_request_that_is_already_complete_ends_at_once() -> None:
    engine = echo()
    scheduler = Scheduler(engine)
    scheduler.add(engine.prepare(request("r", "a b c", max_tokens=2), {}, (1, 2)))
    assert scheduler.waiting == 0
    (output,) = scheduler.step()
    assert (output.text, output.token_ids, output.finish_reason) == ("", (), "length")
    assert output.usage is not None
    assert output.usage.completion_tokens == 2


def test_outputs_are_told_once() -> None:
    engine = echo()
    scheduler = Scheduler(engine)
    add(scheduler, engine, "1")
    outputs: dict[str, list[Output]] = {}
    while scheduler.has_work:
        collect(scheduler.step(), outputs)
    assert scheduler.step() == []
