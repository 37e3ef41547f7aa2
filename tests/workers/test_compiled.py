"""Compiled decoding answers as the model alone does, from the background and from the disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.stack import until
from tests.workers import checkpoints
from tests.workers.reference import (
    assert_answered_as_alone,
    collect,
    generate,
    ids,
    load,
    picture,
    request,
    run,
)
from workers.engines import native
from workers.engines.local import LocalEngine
from workers.engines.runner import Piece
from workers.scheduler import Output, Scheduler

pytestmark = pytest.mark.timeout(300)
needs_bfloat16 = pytest.mark.skipif(not native.has_linear(), reason="no AVX512_BF16")


def answers_as_alone(engine: LocalEngine, folder: Path, images: bool = False) -> None:
    """Short and long requests get the model's own answers, about pictures too if wanted."""
    part, data = picture(5, (40, 30))
    wanted = []
    for number in range(6):
        words = "The quick brown fox " * (1 + number % 3)
        parts = [part, words] if images and number % 2 else [words]
        wanted.append(request(str(number), *parts, max_tokens=4 + 9 * number % 22))
    assert_answered_as_alone(engine, folder, wanted, {part.sha256: data})


@pytest.mark.parametrize("family", ["internvl", "gemma2"])
def test_compiled_answers_equal_those_of_each_request_alone(
    family: str, tmp_path: Path, compile_dir: str
) -> None:
    if family == "internvl":
        folder, slots = checkpoints.save_internvl(tmp_path), 4
    else:
        folder, slots = checkpoints.save_text_model(tmp_path, family, sliding_window=12), 1
    engine = load(folder, slots=slots, compile="now", compile_dir=compile_dir)
    assert engine.runner.compiled
    answers_as_alone(engine, folder, images=family == "internvl")


def test_it_serves_at_once_switches_over_and_starts_compiled_the_next_time(
    llama: Path, compile_dir: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load(llama, compile="auto", compile_dir=compile_dir)
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
    again = load(llama, compile="auto", compile_dir=compile_dir)
    assert again.runner.compiled
    answers_as_alone(again, llama)


@needs_bfloat16
@pytest.mark.parametrize("load_8bit", [False, True])
def test_low_precision_answers_do_not_depend_on_what_runs_beside_or_before_them(
    load_8bit: bool, llama: Path, compile_dir: str
) -> None:
    """Alone, together, in other pieces, from what rows hold, and taken over in mid-answer."""
    texts = ["The quick brown fox " * (1 + number) for number in range(4)]
    texts += ["Alpha beta gamma, and then delta", "numbers 1 2 3 4 5 6 7"]

    def start(chunk_tokens: int) -> LocalEngine:
        options = {"dtype": "bfloat16", "load_8bit": load_8bit}
        engine = load(llama, chunk_tokens, **options, compile="now", compile_dir=compile_dir)
        assert engine.runner.compiled
        return engine

    def answer(
        engine: LocalEngine, *numbers: int, said: Mapping[int, list[int]] | None = None
    ) -> dict[int, list[int]]:
        scheduler = Scheduler(engine)
        for number in numbers:
            asked = request(str(number), texts[number], max_tokens=40, **how(number))
            scheduler.add(engine.prepare(asked, {}, tuple((said or {}).get(number, ()))))
        return {int(key): ids(value) for key, value in run(scheduler).items()}

    def how(number: int) -> dict[str, float]:
        return {"temperature": 1.0, "seed": number} if number % 2 else {}

    alone = {}
    for number in range(len(texts)):
        alone.update(answer(start(1000), number))
    engine = start(7)
    everyone = range(len(texts))
    assert answer(engine, *everyone) == alone
    assert answer(engine, *reversed(everyone)) == alone
    engine = start(16)
    halves = {number: alone[number][: 10 + number] for number in everyone}
    rest = answer(engine, *everyone, said=halves)
    assert {number: halves[number] + rest[number] for number in everyone} == alone


@needs_bfloat16
@pytest.mark.parametrize("load_8bit", [False, True])
def test_low_precision_passes_are_those_of_the_model(
    load_8bit: bool, llama: Path, compile_dir: str
) -> None:
    options = {"load_8bit": load_8bit, "compile": "now", "compile_dir": compile_dir}
    engine = load(llama, dtype="bfloat16", **options)
    runner = engine.runner
    assert runner.compiled
    prompts = [Piece(0, range(5, 45), 0), Piece(1, range(9, 19), 0), Piece(2, [7], 0)]
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
