"""Compiled decoding answers as the model alone does, from the background and from the disk."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.stack import until
from tests.workers import checkpoints
from tests.workers.reference import collect, generate, ids, load, picture, request, run
from workers.engines import native
from workers.engines.local import LocalEngine
from workers.engines.runner import Piece
from workers.scheduler import Output, Scheduler

pytestmark = pytest.mark.timeout(300)


def answers_as_alone(engine: LocalEngine, folder: Path, images: bool = False) -> None:
    """Run requests that join and leave at different steps, and compare each with the model."""
    part, data = picture(5, (40, 30))
    scheduler, outputs, expected = Scheduler(engine), dict[str, list[Output]](), {}
    for number in range(6):
        words = "The quick brown fox " * (1 + number % 3)
        parts = [part, words] if images and number % 2 else [words]
        asked = request(str(number), *parts, max_tokens=4 + 9 * number % 22)
        sequence = engine.prepare(asked, {part.sha256: data})
        expected[str(number)] = generate(folder, sequence)
        scheduler.add(sequence)
        collect(scheduler.step(), outputs)
        collect(scheduler.step(), outputs)
    while scheduler.has_work:
        collect(scheduler.step(), outputs)
    assert {key: ids(value) for key, value in outputs.items()} == expected


@pytest.mark.parametrize("family", ["internvl", "gemma2"])
def test_compiled_answers_equal_those_of_each_request_alone(family: str, tmp_path: Path) -> None:
    if family == "internvl":
        folder, slots = checkpoints.save_internvl(tmp_path), 4
    else:
        folder, slots = checkpoints.save_text_model(tmp_path, family, sliding_window=12), 1
    engine = load(folder, slots=slots, compile="now", compile_dir=str(tmp_path / "compiled"))
    assert engine.runner.compiled
    answers_as_alone(engine, folder, images=family == "internvl")


def test_it_serves_at_once_switches_over_and_starts_compiled_the_next_time(
    llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = str(tmp_path / "compiled")
    engine = load(llama, compile="auto", compile_dir=kept)
    assert engine.runner.compiled is None
    answers_as_alone(engine, llama)
    sequence = engine.prepare(request("across", "The quick", max_tokens=40), {})
    scheduler, outputs = Scheduler(engine), dict[str, list[Output]]()
    scheduler.add(sequence)
    for _ in range(5):
        collect(scheduler.step(), outputs)
    until(lambda: engine.runner.compiled, "the compiled step", 180)
    outputs["across"] += run(scheduler)["across"]
    assert ids(outputs["across"]) == generate(llama, sequence)
    again = load(llama, compile="auto", compile_dir=kept)
    assert again.runner.compiled
    answers_as_alone(again, llama)


@pytest.mark.skipif(not native.has_linear(), reason="no AVX512_BF16")
@pytest.mark.parametrize("load_8bit", [False, True])
def test_low_precision_passes_are_compiled_with_packed_layers(
    load_8bit: bool, llama: Path, tmp_path: Path
) -> None:
    kept = str(tmp_path / "compiled")
    engine = load(llama, dtype="bfloat16", load_8bit=load_8bit, compile="now", compile_dir=kept)
    runner = engine.runner
    assert runner.compiled
    prompts = [Piece(0, range(5, 45), 0), Piece(1, range(9, 19), 0), Piece(2, [7], 0)]
    runner.run(prompts)
    got = runner.run(prompts).float()
    runner.compiled = None
    expected = runner.run(prompts).float()
    assert (got - expected).norm() < 0.05 * (expected - expected.mean()).norm()


def test_without_a_compiler_it_warns_and_decodes_eagerly(
    llama: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_that_it_serves_eagerly("/nonexistent/c++", llama, tmp_path, caplog, monkeypatch)
    assert "no C++ compiler" in caplog.text
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_compiled_is_said_and_served_eagerly(
    llama: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_that_it_serves_eagerly("false", llama, tmp_path, caplog, monkeypatch)
    assert "running without compiled code" in caplog.text


def check_that_it_serves_eagerly(
    compiler: str,
    llama: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING):
        engine = load(llama, compile="now", compile_dir=str(folder))
    assert engine.runner.compiled is None
    answers_as_alone(engine, llama)
