"""Which GPU holds which part of a model that is spread over several: the rule of `split_model`.

The first GPU has everything but the decoder's layers, the vision tower above all, and takes
accordingly fewer of those; it has the last one too, so that an answer leaves where it came in.
Knows names of modules and counts of layers; moves nothing itself: accelerate does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from broker.errors import ConfigurationError

LAYERS = {
    "InternVL-Chat-V1-1": 40,
    "InternVL-Chat-V1-2": 60,
    "InternVL-Chat-V1-2-Plus": 60,
    "Mini-InternVL-2B-V1-5": 24,
    "Mini-InternVL-4B-V1-5": 32,
    "InternVL-Chat-V1-5": 48,
    "InternVL2-1B": 24,
    "InternVL2-2B": 24,
    "InternVL2-4B": 32,
    "InternVL2-8B": 32,
    "InternVL2-26B": 48,
    "InternVL2-40B": 60,
    "InternVL2-Llama3-76B": 80,
    "InternVL2-78B": 80,
    "InternVL2-Pro": 80,
    "InternVL2_5-1B": 24,
    "InternVL2_5-2B": 24,
    "InternVL2_5-4B": 36,
    "InternVL2_5-8B": 32,
    "InternVL2_5-26B": 48,
    "InternVL2_5-38B": 64,
    "InternVL2_5-78B": 80,
}
"""Decoder layers of the checkpoints that are known by name, in OpenGVLab's own form."""

_BESIDE_LAYERS = (
    "vision_model",
    "mlp1",
    "language_model.model.tok_embeddings",
    "language_model.model.embed_tokens",
    "language_model.model.norm",
    "language_model.model.rotary_emb",
    "language_model.output",
    "language_model.lm_head",
)


def split_model(model: str | Any, gpus: int, vit_alpha: float = 0.5) -> dict[str, int]:
    """Spread a model over GPUs: module names to GPU numbers, as accelerate takes them.

    Args:
        model: a transformers configuration, whose own model class gives the names; or one of the
            names in `LAYERS`, a path before it allowed, for modules named as OpenGVLab names them.
        gpus: how many there are.
        vit_alpha: share of the first GPU that the vision part takes, 0 to 1. A configuration
            without one leaves it all to layers.

    Raises:
        ConfigurationError: the name is unknown, or the model has no list of decoder layers.
    """
    if gpus < 1 or not 0.0 <= vit_alpha <= 1.0:
        raise ValueError(f"cannot spread over {gpus} GPUs with a vision share of {vit_alpha}")
    if isinstance(model, str):
        path, layers = "language_model.model.layers", _known_layers(model)
        beside: Iterator[str] = iter(_BESIDE_LAYERS)
    else:
        layers = model.get_text_config().num_hidden_layers
        empty = _build_empty(model)
        path = _find_layers(empty, layers)
        beside = _walk_beside(empty, path)
        vit_alpha = vit_alpha if _has_vision(model) else 0.0
    placed = (_place(layer, layers, gpus, vit_alpha) for layer in range(layers))
    return dict.fromkeys(beside, 0) | {f"{path}.{layer}": gpu for layer, gpu in enumerate(placed)}


def _place(layer: int, layers: int, gpus: int, vit_alpha: float) -> int:
    if gpus == 1 or layer == layers - 1:
        return 0
    share = math.ceil(layers / (gpus - vit_alpha))
    first = math.ceil(share * (1 - vit_alpha))
    return 0 if layer < first else min(1 + (layer - first) // share, gpus - 1)


def _known_layers(name: str) -> int:
    layers = LAYERS.get(name.rstrip("/").rpartition("/")[2])
    if layers is None:
        raise ConfigurationError(
            f"{name}: nothing is known of its layers by name alone. Give its configuration instead."
        )
    return layers


def _has_vision(config: Any) -> bool:
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def _build_empty(config: Any) -> nn.Module:
    """Build a configuration's model without memory for its weights."""
    auto: Any = transformers.AutoModelForCausalLM
    if _has_vision(config):
        auto = transformers.AutoModelForImageTextToText
    with torch.device("meta"):
        return cast(nn.Module, auto.from_config(config))


def _find_layers(model: nn.Module, layers: int) -> str:
    decoder = set(cast(Any, model).get_decoder().modules())
    path: str
    for path, module in model.named_modules():
        if module in decoder and isinstance(module, nn.ModuleList) and len(module) == layers:
            return path
    raise ConfigurationError(
        f"{type(model).__name__}: its decoder has no list of {layers} layers to spread over "
        "GPUs. Name a single device: --device cuda:0."
    )


def _walk_beside(model: nn.Module, path: str) -> Iterator[str]:
    """Names of all modules and lone tensors that `path` passes on its way from the root."""
    prefix = ""
    for step in path.split("."):
        parts = [*model.named_children(), *model.named_parameters(recurse=False)]
        parts += model.named_buffers(recurse=False)
        yield from (prefix + name for name, _ in parts if name != step)
        model, prefix = getattr(model, step), f"{prefix}{step}."
