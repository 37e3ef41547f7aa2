"""Which GPU a layer goes to: by name as the InternVL demo placed it, by configuration for all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import dispatch_model
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from broker.errors import ConfigurationError
from tests.workers.checkpoints import text_config
from tests.workers.reference import load, request, run
from workers.device_map import LAYERS, split_model
from workers.engines import checkpoint
from workers.engines.cache import SlotCache
from workers.engines.plan import make_plan
from workers.scheduler import Scheduler

GOLDEN = {
    24: "24 | 9 15 | 6 10 9 | 5 7 7 6 | 4 6 6 6 5 | 4 5 5 5 5 4 | 3 4 4 4 4 4 3 | 3 4 4 4 4 4 3 4",
    32: "32 | 12 21 | 8 13 12 | 6 10 10 9 | 5 8 8 8 7 | 4 6 6 6 6 5 | 4 5 5 5 5 5 4 "
    "| 4 5 5 5 5 5 4 5",
    36: "36 | 13 23 | 9 15 14 | 7 11 11 10 | 5 8 8 8 7 | 5 7 7 7 7 6 | 4 6 6 6 6 6 5 "
    "| 4 5 5 5 5 5 5 4",
    40: "40 | 15 26 | 9 16 15 | 7 12 12 11 | 6 9 9 9 8 | 5 8 8 8 8 7 | 5 7 7 7 7 7 6 "
    "| 4 6 6 6 6 6 6 5",
    48: "48 | 17 31 | 11 20 19 | 8 14 14 13 | 7 11 11 11 10 | 6 9 9 9 9 8 | 5 8 8 8 8 8 7 "
    "| 5 7 7 7 7 7 7 6",
    60: "60 | 21 39 | 13 24 23 | 10 18 18 17 | 8 14 14 14 13 | 7 11 11 11 11 10 "
    "| 6 10 10 10 10 10 9 | 5 8 8 8 8 8 8 7",
    64: "64 | 23 42 | 14 26 25 | 11 19 19 18 | 9 15 15 15 14 | 7 12 12 12 12 11 "
    "| 6 10 10 10 10 10 9 | 6 9 9 9 9 9 9 8",
    80: "80 | 28 53 | 17 32 31 | 13 23 23 22 | 10 18 18 18 17 | 9 15 15 15 15 14 "
    "| 8 13 13 13 13 13 12 | 7 11 11 11 11 11 11 10",
}
"""Layers per GPU, for 1 to 8 GPUs, as the demo's own function gives them: some of those on the last
GPUs do not exist."""


def layers_of(device_map: dict[str, int]) -> dict[int, int]:
    found = {key.rpartition(".layers.")[2]: gpu for key, gpu in device_map.items()}
    return {int(layer): gpu for layer, gpu in found.items() if layer.isdigit()}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_exist_go_where_the_original_put_them(name: str) -> None:
    count = LAYERS[name]
    for gpus, golden in enumerate(GOLDEN[count].split("|"), start=1):
        told = [int(each) for each in golden.split()]
        if gpus > 1:
            told[0] -= 1  # the last layer, which joins the first ones on GPU 0
        original = [gpu for gpu, layers in enumerate(told) for _ in range(layers)]
        if gpus > 1 and len(original) < count:
            original.append(0)
        elif gpus > 1:
            original.insert(count - 1, 0)
        placed = layers_of(split_model(f"OpenGVLab/{name}", gpus))
        assert placed == dict(enumerate(original[:count]))


def test_all_but_layers_is_on_the_first_gpu() -> None:
    placed = split_model("InternVL2-8B", 2)
    assert [key for key in placed if ".layers." not in key] == [
        "vision_model",
        "mlp1",
        "language_model.model.tok_embeddings",
        "language_model.model.embed_tokens",
        "language_model.model.norm",
        "language_model.model.rotary_emb",
        "language_model.output",
        "language_model.lm_head",
    ]
    assert Counter(placed.values()) == {0: 8 + 12, 1: 20}


@pytest.mark.parametrize(
    ("vit_alpha", "counts"), [(0.0, (17, 15)), (0.25, (16, 16)), (0.75, (8, 24))]
)
def test_the_vision_share_is_taken_from_the_first_gpu(
    vit_alpha: float, counts: tuple[int, int]
) -> None:
    placed = layers_of(split_model("InternVL2-8B", 2, vit_alpha))
    assert tuple(Counter(placed.values()).values()) == counts


@given(st.integers(1, 130), st.integers(1, 20), st.floats(0.0, 1.0))
def test_every_layer_gets_a_gpu_that_exists(layers: int, gpus: int, vit_alpha: float) -> None:
    config = text_config("llama", 300, num_hidden_layers=layers)
    placed = layers_of(split_model(config, gpus, vit_alpha))
    assert list(placed) == list(range(layers))
    assert set(placed.values()) <= set(range(gpus))
    assert placed[layers - 1] == 0
    rising = [placed[layer] for layer in range(layers - 1)]
    assert rising == sorted(rising)


def test_a_name_that_says_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="InternVL9-1B: nothing is known"):
        split_model("OpenGVLab/InternVL9-1B", 2)
    with pytest.raises(ValueError, match="0 GPUs"):
        split_model("InternVL2-8B", 0)


FAMILIES = [
    "internvl",
    "llava",
    "llava_next",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "gemma3",
    "idefics3",
    "smolvlm",
    "mistral3",
    "paligemma",
    "llama",
    "qwen2",
    "mistral",
    "gemma2",
    "phi3",
]


@pytest.mark.parametrize("gpus", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_map_by_configuration_covers_the_real_model_exactly(family: str, gpus: int) -> None:
    config = transformers.AutoConfig.for_model(family)
    placed = split_model(config, gpus)
    model = build_empty(config)
    tensors = {*dict(model.named_parameters()), *dict(model.named_buffers())}
    for name in tensors:
        assert len([key for key in placed if f"{name}.".startswith(f"{key}.")]) == 1, name
    parts = {*dict(model.named_modules()), *tensors}
    assert set(placed) <= parts
    assert set(placed.values()) == set(range(gpus))
    assert len(layers_of(placed)) == config.get_text_config().num_hidden_layers


def test_the_shape_of_internvl3_8b_is_split_as_its_layers_ask_for() -> None:
    text = transformers.Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=151674,
    )
    config = transformers.InternVLConfig(
        vision_config={"attention_bias": True},
        text_config=text.to_dict(),
        tie_word_embeddings=False,
    )
    placed = split_model(config, 2)
    assert Counter(layers_of(placed).values()) == {0: 11, 1: 17}
    sizes: Counter[int] = Counter()
    for name, parameter in build_empty(config).named_parameters():
        sizes[next(gpu for key, gpu in placed.items() if f"{name}.".startswith(f"{key}."))] += (
            parameter.numel()
        )
    assert sum(sizes.values()) == 7_944_373_760
    assert 0.8 < sizes[0] / sizes[1] < 1.3


def test_a_text_model_uses_the_whole_first_gpu() -> None:
    config = text_config("llama", 300, num_hidden_layers=8)
    assert Counter(layers_of(split_model(config, 2)).values()) == {0: 5, 1: 3}


def build_empty(config: Any) -> nn.Module:
    images = hasattr(config, "vision_config")
    auto: Any = transformers.AutoModelForImageTextToText if images else None
    with torch.device("meta"):
        model: nn.Module = (auto or transformers.AutoModelForCausalLM).from_config(config)
    return model


def test_auto_spreads_over_all_gpus_and_a_named_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = text_config("llama", 300)
    cuda = torch.device("cuda")
    assert checkpoint._place("auto", config, cuda) == split_model(config, 2)
    assert checkpoint._place("cuda", config, cuda) == {"": cuda}
    assert checkpoint._place("auto", config, torch.device("cpu")) == {"": torch.device("cpu")}


def test_a_dispatched_model_answers_as_before(llama: Path) -> None:
    """With accelerate's hooks on every part, if on one device only: there is no second one here."""
    answers = []
    for hooked in (False, True):
        engine = load(llama)
        if hooked:
            model = engine.runner._model
            placed: dict[str, Any] = dict.fromkeys(split_model(model.config, 2), "cpu")
            dispatch_model(model, placed, force_hooks=True)
            assert hasattr(model.model.layers[0], "_hf_hook")
        scheduler = Scheduler(engine)
        scheduler.add(engine.prepare(request("r", "Hello there", max_tokens=12), {}))
        answers.append(run(scheduler)["r"])
    assert answers[0] == answers[1]


def test_a_layer_elsewhere_is_written_by_indices_that_are_there_too() -> None:
    elsewhere = torch.device("meta")
    plan = make_plan([0, 1], [3, 0], torch.device("cpu"))
    slots, positions = plan.on(elsewhere)
    assert (slots.device, positions.device) == (elsewhere, elsewhere)
    assert plan.on(elsewhere)[0] is slots
    assert plan.on(torch.device("cpu"))[0] is plan.slots
    cache = SlotCache(2, 8)
    with plan.in_use():
        keys, values = cache.update(*torch.zeros(2, 1, 4, 2, 6, device=elsewhere), 0)
    assert keys.shape == values.shape == (3, 4, 8, 6)
    assert cache.token_bytes == {elsewhere: 2 * 4 * 6 * 4}
