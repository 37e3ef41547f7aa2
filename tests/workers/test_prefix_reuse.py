"""A beginning that was computed before is not computed again, and answers stay what they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.messages import ChatMessage, GenerateRequest, ImagePart, Part, SamplingParams, TextPart
from tests.workers.reference import collect, generate, ids, load, picture, request, run, text
from workers.engines.local import LocalEngine
from workers.engines.runner import Piece
from workers.scheduler import Output, Scheduler
from workers.sequence import Sequence

STORY = "The quick brown fox jumps over the lazy dog. Pack my box! " * 3


class Watch:
    """Counts the tokens that an engine runs through its model."""

    def __init__(self, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = 0
        run_pieces = engine.runner.run

        def counted(pieces: list[Piece]) -> object:
            self.tokens += sum(len(piece.ids) for piece in pieces)
            return run_pieces(pieces)

        monkeypatch.setattr(engine.runner, "run", counted)

    def take(self) -> int:
        """Return the tokens since the last call."""
        taken, self.tokens = self.tokens, 0
        return taken


def turns(request_id: str, *contents: tuple[str | ImagePart, ...]) -> GenerateRequest:
    """A chat of user and assistant messages in turn."""
    messages = []
    for number, content in enumerate(contents):
        parts: list[Part] = [TextPart(text=p) if isinstance(p, str) else p for p in content]
        role = "assistant" if number % 2 else "user"
        messages.append(ChatMessage(role=role, content=tuple(parts)))
    return GenerateRequest(
        id=request_id,
        model="any",
        messages=tuple(messages),
        sampling=SamplingParams(temperature=0.0, max_tokens=8),
        created_s=0.0,
    )


def answer(engine: LocalEngine, sequence: Sequence) -> list[int]:
    """Run one sequence alone."""
    scheduler = Scheduler(engine)
    scheduler.add(sequence)
    (outputs,) = run(scheduler).values()
    return ids(outputs)


def test_the_next_turn_computes_only_what_is_new(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(llama, chunk_tokens=1000)
    watch = Watch(engine, monkeypatch)
    scheduler = Scheduler(engine)
    first = engine.prepare(turns("1", (STORY,)), {})
    scheduler.add(first)
    said = text(run(scheduler)["1"])
    assert watch.take() == len(first.prompt_ids) + 7
    second = engine.prepare(turns("2", (STORY,), (said,), ("And then?",)), {})
    expected = generate(llama, second)
    assert answer(engine, second) == expected
    new = len(second.prompt_ids) - len(first.prompt_ids)
    assert watch.take() <= new + 7
    assert second.usage.cached_tokens >= len(first.prompt_ids)

    again = engine.prepare(turns("3", (STORY,), (said,), ("And then?",)), {})
    assert answer(engine, again) == expected
    assert watch.take() == 8


def test_a_running_sequence_shares_its_beginning(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(llama, chunk_tokens=1000)
    watch = Watch(engine, monkeypatch)
    scheduler, outputs = Scheduler(engine), dict[str, list[Output]]()
    one = engine.prepare(request("one", STORY, "Why?", max_tokens=20), {})
    two = engine.prepare(request("two", STORY, "Where?", max_tokens=20), {})
    expected = {each.request_id: generate(llama, each) for each in (one, two)}
    scheduler.add(one)
    collect(scheduler.step(), outputs)
    assert watch.take() == len(one.prompt_ids)
    scheduler.add(two)
    collect(scheduler.step(), outputs)
    assert watch.take() < 30 < len(two.prompt_ids)
    while scheduler.has_work:
        collect(scheduler.step(), outputs)
    assert {key: ids(value) for key, value in outputs.items()} == expected


def test_a_picture_is_part_of_what_is_compared(
    internvl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(internvl, chunk_tokens=1000)
    watch = Watch(engine, monkeypatch)
    (one, one_data), (two, two_data) = picture(1, (60, 40)), picture(2, (60, 40))
    images = {one.sha256: one_data, two.sha256: two_data}
    first = engine.prepare(turns("1", (one, "What is it?")), images)
    assert answer(engine, first) == generate(internvl, first)
    cold = watch.take()
    encoded = engine.runner.tower.encoded
    other_words = engine.prepare(turns("2", (one, "How large is it?")), images)
    assert answer(engine, other_words) == generate(internvl, other_words)
    assert watch.take() < cold - len(first.payload.spans[0].positions)  # type: ignore[attr-defined]
    assert engine.runner.tower.encoded == encoded == 1
    other_picture = engine.prepare(turns("3", (two, "What is it?")), images)
    assert answer(engine, other_picture) == generate(internvl, other_picture)
    assert watch.take() > cold - 10
    assert engine.runner.tower.encoded == 2


def test_rows_are_given_away_in_the_order_they_were_left(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(llama, slots=2, chunk_tokens=1000)
    watch = Watch(engine, monkeypatch)
    lengths = {}
    for name in ("Alpha", "Beta", "Gamma"):
        sequence = engine.prepare(request(name, f"{name} {STORY}", max_tokens=2), {})
        lengths[name] = len(sequence.prompt_ids)
        answer(engine, sequence)
    watch.take()
    answer(engine, engine.prepare(request("held", f"Gamma {STORY}", max_tokens=2), {}))
    assert watch.take() == 2
    answer(engine, engine.prepare(request("gone", f"Alpha {STORY}", max_tokens=2), {}))
    assert watch.take() > lengths["Alpha"] - 10
    answer(engine, engine.prepare(request("kept", f"Gamma {STORY}", max_tokens=2), {}))
    assert watch.take() == 2


def test_a_failed_request_leaves_nothing_to_be_shared(llama: Path) -> None:
    engine = load(llama, chunk_tokens=1000)
    spoiled = engine.prepare(request("bad", STORY, max_tokens=9), {})
    embed = engine.runner._model.get_input_embeddings()
    hook = embed.register_forward_hook(lambda *call: call[2] * float("nan"))
    scheduler = Scheduler(engine)
    scheduler.add(spoiled)
    assert run(scheduler)["bad"][-1].error is not None
    hook.remove()
    healthy = engine.prepare(request("good", STORY, max_tokens=9), {})
    assert answer(engine, healthy) == generate(llama, healthy)
