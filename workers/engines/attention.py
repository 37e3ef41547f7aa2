"""Attention over a slot cache, registered with transformers under the name `heliograph`.

Grouped query heads are folded into the query length, so keys and values are never repeated; masks
are boolean and built from each row's own offset. Works for every model that goes through
transformers' attention interface; a variant that this function does not compute is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from broker.errors import ConfigurationError

NAME = "heliograph"


def register() -> None:
    """Make `heliograph` known as an attention implementation; may be called again."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, build_mask)


def switch(model: PreTrainedModel) -> None:
    """Let a model's language part attend this way; a vision tower keeps its own."""
    register()
    vision = hasattr(model.config, "vision_config")
    model.set_attn_implementation({"text_config": NAME} if vision else NAME)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from `[rows, heads, tokens, dim]` queries; return `[rows, tokens, heads, dim]`."""
    if attention_mask is None or kwargs.get("position_bias") is not None:
        raise ConfigurationError("attention without a mask, or with a position bias")
    rows, heads, tokens, _ = query.shape
    groups = heads // key.shape[1]
    folded = query.reshape(rows, key.shape[1], groups * tokens, query.shape[-1])
    mask = attention_mask if tokens == 1 else attention_mask.repeat(1, 1, groups, 1)
    softcap, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
    if softcap is None and sinks is None:
        output = scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
    else:
        if sinks is not None:
            sinks = sinks.view(1, -1, groups, 1).expand(rows, -1, -1, tokens)
        output = _attend_in_full(folded, key, value, mask, scaling, softcap, sinks)
    return output.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None


def _attend_in_full(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attend with capped scores (Gemma 2) or learned sinks (gpt-oss), which no kernel offers."""
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).float()
    if sinks is None:
        weights = scores.softmax(dim=-1)
    else:
        sink = sinks.reshape(*scores.shape[:-1], 1).float()
        weights = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
    return weights.to(value.dtype) @ value


def build_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: torch.Tensor | int,
    kv_offset: int,
    mask_function: Callable[..., torch.Tensor],
    device: torch.device,
    **kwargs: Any,
) -> torch.Tensor:
    """Evaluate a mask function at every row's own positions: `[rows, 1, tokens, length]`, bool."""
    rows = torch.arange(batch_size, device=device).view(-1, 1, 1, 1)
    head = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=device)
    queries = torch.arange(q_length, device=device).view(1, 1, -1, 1) + q_offset
    keys = torch.arange(kv_length, device=device).view(1, 1, 1, -1) + kv_offset
    mask = mask_function(rows, head, queries, keys)
    return mask.expand(batch_size, 1, q_length, kv_length)
