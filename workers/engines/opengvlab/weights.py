"""Weights of OpenGVLab's InternVL under the names, and in the pieces, of transformers' InternVL.

Tensors stay views of the mapped files as far as they can; what InternLM2 interleaves is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from broker.errors import ConfigurationError

_VISION = {
    "vision_model.": "model.vision_tower.",
    ".class_embedding": ".cls_token",
    ".patch_embedding.": ".patch_embeddings.projection.",
    ".position_embedding": ".position_embeddings",
    ".encoder.layers.": ".encoder.layer.",
    ".attn.proj.": ".attention.projection_layer.",
    ".attn.": ".attention.",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".ls1": ".lambda_1",
    ".ls2": ".lambda_2",
}
_PROJECTOR = {
    "mlp1.0.": "model.multi_modal_projector.layer_norm.",
    "mlp1.1.": "model.multi_modal_projector.linear_1.",
    "mlp1.3.": "model.multi_modal_projector.linear_2.",
}
_LANGUAGE = {
    "language_model.lm_head.": "lm_head.",
    "language_model.output.": "lm_head.",
    "language_model.model.": "model.language_model.",
    ".tok_embeddings.": ".embed_tokens.",
    ".attention.wo.": ".self_attn.o_proj.",
    ".attention.wqkv.": ".self_attn.wqkv.",
    ".feed_forward.w1.": ".mlp.gate_proj.",
    ".feed_forward.w2.": ".mlp.down_proj.",
    ".feed_forward.w3.": ".mlp.up_proj.",
    ".attention_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
}
_NAMES = {"vision_model": _VISION, "mlp1": _PROJECTOR, "language_model": _LANGUAGE}
_HEADS = {"language_model.lm_head.weight", "language_model.output.weight"}
_COMPUTED = ".rotary_emb.inv_freq"
"""A buffer that old checkpoints have saved; transformers computes it."""


class Weights:
    """The weights in a checkpoint's folder, whose `config.json` has the numbers of heads."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._files = sorted(folder.glob("*.safetensors"))
        if not self._files:
            raise ConfigurationError(f"{folder}: there are no weights (*.safetensors)")
        language = settings["llm_config"]
        self._heads = language["num_attention_heads"]
        self._key_heads = language.get("num_key_value_heads") or self._heads

    def has_head(self) -> bool:
        """Whether the output layer has weights of its own, rather than the embedding's."""
        with ExitStack() as stack:
            files = [stack.enter_context(_open(file)) for file in self._files]
            return any(name in _HEADS for file in files for name in file.keys())  # noqa: SIM118

    def read(self) -> dict[str, torch.Tensor]:
        """Read all weights by their names in transformers."""
        found: dict[str, torch.Tensor] = {}
        for file in self._files:
            with _open(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    if not name.endswith(_COMPUTED):
                        found.update(self._translate(name, tensors.get_tensor(name)))
        return found

    def _translate(self, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        for theirs, ours in _NAMES.get(name.partition(".")[0], {}).items():
            name = name.replace(theirs, ours)
        for fused, split in ((".qkv.", _in_thirds), (".wqkv.", self._by_group)):
            if fused in name:
                for letter, part in zip("qkv", split(tensor), strict=True):
                    yield name.replace(fused, f".{letter}_proj."), part
                return
        yield name, tensor

    def _by_group(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split InternLM2's rows: for each key head its queries' rows, its key's, its value's."""
        sharing = self._heads // self._key_heads
        dim = tensor.shape[0] // (self._key_heads * (sharing + 2))
        groups = tensor.reshape(self._key_heads, sharing + 2, dim, *tensor.shape[1:])
        parts = groups[:, :sharing], groups[:, sharing], groups[:, sharing + 1]
        return tuple(part.reshape(-1, *tensor.shape[1:]) for part in parts)


def _in_thirds(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tensor.chunk(3)


def _open(file: Path) -> Any:
    return safe_open(file, framework="pt")
