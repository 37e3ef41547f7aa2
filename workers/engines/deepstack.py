"""Features that a vision tower adds behind the first layers of the language model (Qwen3-VL).

The engine calls models with embeddings alone, which have no room for them. So they travel beside
each token's embedding, one level after the other, and hooks on the layers add them. Knows nothing
of pictures.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import PreTrainedModel

from workers.engines.plan import current


def levels(model: PreTrainedModel) -> int:
    """Return how many layers get an addition; most models have none."""
    vision = getattr(model.config, "vision_config", None)
    return len(getattr(vision, "deepstack_visual_indexes", None) or ())


def attach(model: PreTrainedModel) -> None:
    """Let passes of a plan add its `additions`."""
    layers = cast(Any, model).get_decoder().layers if levels(model) else ()
    for level in range(levels(model)):
        layers[level].register_forward_hook(_adder(level))


def _adder(level: int) -> Any:
    def add(layer: object, inputs: object, hidden: torch.Tensor) -> torch.Tensor:
        additions = current().additions
        if additions is None:
            return hidden
        width = hidden.shape[-1]
        return hidden + additions[..., level * width : (level + 1) * width].to(hidden.device)

    return add
