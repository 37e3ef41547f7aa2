"""The vision tower works a slice at a time, and what comes of it is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from broker.messages import ImagePart
from tests.workers.reference import collect, generate, ids, load, picture, request, run
from workers.engines.local import LocalEngine
from workers.pace import Pace
from workers.scheduler import Output, Scheduler
from workers.sequence import Sequence

LAYERS = 2
TILES = 5
"""Four and a thumbnail."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time for pictures beside answers: every step gets a single layer done."""
    monkeypatch.setattr(Pace, "spare_s", lambda *_: 0.0)


def start(engine: LocalEngine) -> tuple[Scheduler, Sequence, dict[str, list[Output]]]:
    """Let a long answer run."""
    scheduler, text = Scheduler(engine), engine.prepare(request("text", "Hi", max_tokens=99), {})
    scheduler.add(text)
    return scheduler, text, {"text": scheduler.step()}


def ask(engine: LocalEngine, name: str, seed: int) -> Sequence:
    """A question about a picture of five tiles."""
    part, data = large(seed)
    return engine.prepare(request(name, part, "What?", max_tokens=9), {part.sha256: data})


def large(seed: int) -> tuple[ImagePart, bytes]:
    return picture(seed, (56, 56))


def layers(engine: LocalEngine) -> Any:
    model: Any = engine.runner._model
    found = model.model.vision_tower.encoder.layer
    assert len(found) == LAYERS
    return found


@pytest.mark.usefixtures("impatient")
def test_running_answers_go_on_while_a_picture_is_looked_at(internvl: Path) -> None:
    engine = load(internvl, chunk_tokens=1000)
    scheduler, _, outputs = start(engine)
    asked = ask(engine, "picture", 1)
    scheduler.add(asked)
    steps = 0
    while "picture" not in outputs:
        before = len(ids(outputs["text"]))
        collect(scheduler.step(), outputs)
        assert len(ids(outputs["text"])) == before + 1
        steps += 1
    assert steps >= TILES * LAYERS
    outputs["picture"] += run(scheduler).pop("picture", [])
    assert ids(outputs["picture"]) == generate(internvl, asked)
    assert engine.runner.tower.encoded == 1


@pytest.mark.usefixtures("impatient")
def test_two_questions_about_a_picture_look_at_it_once(internvl: Path) -> None:
    engine = load(internvl)
    scheduler, _, outputs = start(engine)
    asked = [ask(engine, name, 1) for name in ("one", "two")]
    for sequence in asked:
        scheduler.add(sequence)
    outputs |= run(scheduler)
    assert [ids(outputs[each.request_id]) for each in asked] == [generate(internvl, asked[0])] * 2
    assert engine.runner.tower.encoded == 1


@pytest.mark.usefixtures("impatient")
def test_a_picture_that_nobody_waits_for_any_more_is_given_up(internvl: Path) -> None:
    engine = load(internvl)
    scheduler, _, _ = start(engine)
    gone, asked = ask(engine, "gone", 1), ask(engine, "asked", 2)
    scheduler.add(gone)
    for _ in range(4):
        scheduler.step()
    assert scheduler.cancel("gone")
    scheduler.add(asked)
    assert ids(run(scheduler)["asked"]) == generate(internvl, asked)
    assert not any(module._forward_pre_hooks for module in layers(engine).modules())
    assert engine.runner.tower.encoded == 1


@pytest.mark.usefixtures("impatient")
def test_a_tower_that_fails_ends_one_request(internvl: Path) -> None:
    engine = load(internvl)

    def fail(*_: object) -> None:
        raise RuntimeError("can't allocate memory")

    scheduler, text, outputs = start(engine)
    scheduler.add(ask(engine, "bad", 1))
    hook = layers(engine)[-1].register_forward_hook(fail)
    while "bad" not in outputs:
        collect(scheduler.step(), outputs)
    hook.remove()
    error = outputs["bad"][-1].error
    assert error is not None
    assert "out of memory on a picture" in error.message
    again = ask(engine, "again", 1)
    scheduler.add(again)
    for name, new in run(scheduler).items():
        outputs.setdefault(name, []).extend(new)
    assert ids(outputs["again"]) == generate(internvl, again)
    assert ids(outputs["text"]) == generate(internvl, text)


def test_tiles_are_encoded_apart_only_where_that_changes_nothing(internvl: Path) -> None:
    engine = load(internvl)
    (span,) = ask(engine, "x", 1).payload.spans  # type: ignore[attr-defined]
    inputs, model = span.pixels.inputs, engine.runner._model
    assert len(inputs["pixel_values"]) == TILES
    calls = []
    layer = layers(engine)[-1]
    layer.register_forward_hook(lambda _, args, output: calls.append(len(args[0])))
    with torch.inference_mode():
        apart = engine.runner.tower.get(span.pixels)
        whole = model.get_image_features(**inputs).pooler_output.flatten(0, 1)  # type: ignore[operator]
    assert calls == [1] * TILES + [TILES]
    torch.testing.assert_close(apart, whole)

    layer.register_forward_hook(lambda _, args, output: output + output.mean(0))
    calls.clear()
    (other,) = ask(engine, "y", 2).payload.spans  # type: ignore[attr-defined]
    probe = ask(engine, "z", 3).payload.spans[0].pixels  # type: ignore[attr-defined]
    engine.runner.tower.learn_to_split(probe)
    calls.clear()
    with torch.inference_mode():
        engine.runner.tower.get(other.pixels)
    assert calls == [TILES]
