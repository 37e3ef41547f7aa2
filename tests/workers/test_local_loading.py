"""What the local engine refuses, at load and per request, and what it says of its progress."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from broker.errors import ConfigurationError, ContextLengthExceeded, InvalidImage, InvalidRequest
from tests.workers import checkpoints
from tests.workers.reference import load, picture, request, run
from workers.engines import load_engine, native, packed
from workers.engines.base import EngineOptions
from workers.scheduler import Scheduler


def test_an_answer_ends_where_the_context_does(llama: Path) -> None:
    engine = load(llama, context_length=32)
    scheduler = Scheduler(engine)
    sequence = engine.prepare(request("r", "Hello", max_tokens=500), {})
    scheduler.add(sequence)
    last = run(scheduler)["r"][-1]
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert last.usage.prompt_tokens + last.usage.completion_tokens == 32


def test_a_prompt_longer_than_the_context_is_refused_with_the_counts(llama: Path) -> None:
    engine = load(llama, context_length=32)
    with pytest.raises(ContextLengthExceeded, match=r"needs \d+ tokens.* holds 32"):
        engine.prepare(request("r", "The quick brown fox " * 20), {})


def test_a_text_model_refuses_pictures(llama: Path) -> None:
    part, data = picture(1, (10, 10))
    with pytest.raises(InvalidRequest, match="takes no images"):
        load(llama).prepare(request("r", part), {part.sha256: data})


def test_a_missing_or_damaged_picture_is_refused(internvl: Path) -> None:
    engine = load(internvl)
    part, data = picture(1, (10, 10))
    for images in ({}, {part.sha256: data[:60]}):
        with pytest.raises(InvalidImage):
            engine.prepare(request("r", part), images)


def test_families_that_would_answer_wrongly_are_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="paligemma: "):
        load(checkpoints.save_paligemma(tmp_path / "paligemma"))
    with pytest.raises(ConfigurationError, match="bloom: this family is not supported"):
        load(checkpoints.save_text_model(tmp_path / "bloom", "bloom"))


def test_unknown_devices_formats_and_folders_are_configuration_errors(llama: Path) -> None:
    for wrong in ({"device": "quantum"}, {"dtype": "int3"}, {"context_length": 10_000}):
        with pytest.raises(ConfigurationError):
            load(llama, **wrong)
    with pytest.raises(ConfigurationError, match="cannot load"):
        load(llama / "nothing here")


def test_loading_progress_rises_to_one_hundred(llama: Path) -> None:
    told: list[int] = []
    load_engine(EngineOptions(str(llama)), told.append)
    assert told == sorted(told)
    assert told[-1] == 100
    assert len(set(told)) > 10


def test_eight_bit_weights_work_or_are_refused_clearly(llama: Path, compile_dir: str) -> None:
    own = native.has_linear() and native.compiler()
    if not own and find_spec("torchao") is None:
        with pytest.raises(ConfigurationError, match="torchao"):
            load(llama, load_8bit=True)
        return
    engine = load(llama, load_8bit=True, compile_dir=compile_dir)
    scheduler = Scheduler(engine)
    scheduler.add(engine.prepare(request("r", "Hello", max_tokens=5), {}))
    assert run(scheduler)["r"][-1].error is None


@pytest.mark.skipif(
    not native.has_linear() or not native.compiler(), reason="no AVX512_BF16, or g++"
)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 16), (64, 37), (198, 192), (576, 1000)])
def test_a_packed_layer_computes_its_rounded_weights(
    bits: packed.Bits, inputs: int, outputs: int, compile_dir: str
) -> None:
    native.load(Path(compile_dir))
    torch.manual_seed(1)
    linear = torch.nn.Linear(inputs, outputs)
    if bits == 16:
        layer = packed.PackedLinear(linear.bfloat16(), bits)
        rounded = linear.weight.float()
    else:
        layer = packed.PackedLinear(linear, bits)
        scale = linear.weight.abs().amax(dim=1) / 127
        rounded = (linear.weight / scale[:, None]).round() * scale[:, None]
    for rows in (1, 2, 7, 8, 9, 40, 130, 300):
        x = torch.randn(rows, inputs).bfloat16()
        expected = torch.nn.functional.linear(x.float(), rounded, linear.bias.float())
        torch.testing.assert_close(layer(x.float()), expected, rtol=0.01, atol=0.01)
        assert layer(x).dtype == torch.bfloat16
        alone = torch.cat([layer(row[None]) for row in x])
        assert torch.equal(alone, layer(x))
