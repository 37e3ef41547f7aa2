"""Attention over a slot cache, registered with transformers under the name `heliograph`.

Grouped query heads share their keys and values, which are never repeated; masks are boolean and
built from each token's own position. Works for every model that goes through transformers'
attention interface; a variant that this function does not compute is refused. On a CPU with a
compiler, `native` computes the same thing several times as fast.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import causal_mask_function

from broker.errors import ConfigurationError
from workers.engines import deepstack, native
from workers.engines.plan import Block, current

NAME = "heliograph"


class _Scoring(NamedTuple):
    """How products become weights: factor, bound and a score per head that only takes its share."""

    scale: float
    softcap: float | None
    sinks: torch.Tensor | None


def register() -> None:
    """Make `heliograph` known as an attention implementation; may be called again."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, build_mask)


def switch(model: PreTrainedModel) -> None:
    """Let a model's language part attend this way; a vision tower keeps its own."""
    register()
    vision = hasattr(model.config, "vision_config")
    model.set_attn_implementation({"text_config": NAME} if vision else NAME)
    deepstack.attach(model)


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
    """Attend from the tokens of the current plan's pass to their rows of the cache.

    Args:
        module: the layer; not used.
        query: `[1, heads, tokens, dim]`.
        key: the layer's whole cache, `[rows, key heads, length, dim]`.
        value: the same of values.
        attention_mask: what `build_mask` made.
        dropout: not used.
        scaling: factor of the scores; by default one over the root of `dim`.
        kwargs: `softcap` and `s_aux` (learned sinks) are heeded.

    Returns:
        `[1, tokens, heads, value dim]`, and no weights.
    """
    if attention_mask is None or kwargs.get("position_bias") is not None:
        raise ConfigurationError("attention without a mask, or with a position bias")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scoring = _Scoring(scale, kwargs.get("softcap"), kwargs.get("s_aux"))
    plan = current()
    if plan.pictures is None and native.serves(query.device, query.dtype):
        output = native.attend(
            query, key, value, attention_mask, plan.slots, plan.positions, *scoring
        )
        return output, None
    parts = []
    for block in plan.blocks:
        rows = slice(block.slot, block.slot + block.rows)
        keys, values = key[rows, :, : block.stop], value[rows, :, : block.stop]
        queries, mask = _cut(query, attention_mask, block)
        parts.append(_attend_block(queries, keys, values, mask, scoring))
    return torch.cat(parts, dim=1), None


def _cut(
    query: torch.Tensor, mask: torch.Tensor, block: Block
) -> tuple[torch.Tensor, torch.Tensor]:
    """A block's queries `[rows, heads, tokens, dim]` and mask `[rows, 1, tokens, length]`."""
    part = slice(block.first, block.first + block.rows * block.tokens)
    heads, dim = query.shape[1], query.shape[3]
    queries = query[0, :, part].reshape(heads, block.rows, block.tokens, dim).transpose(0, 1)
    seen = mask[0, 0, part, : block.stop].view(block.rows, 1, block.tokens, block.stop)
    return queries, seen


def _attend_block(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scoring: _Scoring,
) -> torch.Tensor:
    """Attend within a block; grouped heads are folded into the query length."""
    rows, heads, tokens, dim = query.shape
    groups = heads // key.shape[1]
    folded = query.reshape(rows, key.shape[1], groups * tokens, dim)
    seen = mask if tokens == 1 else mask.repeat(1, 1, groups, 1)
    scale, softcap, sinks = scoring
    if softcap is None and sinks is None:
        output = scaled_dot_product_attention(folded, key, value, attn_mask=seen, scale=scale)
    else:
        # Capped scores (Gemma 2) or learned sinks (gpt-oss), which no kernel offers.
        scores = folded @ key.transpose(2, 3) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).float()
        if sinks is not None:
            sink = sinks.view(1, -1, groups, 1).expand(rows, -1, -1, tokens)
            scores = torch.cat([scores, sink.reshape(*scores.shape[:-1], 1).float()], dim=-1)
        weights = scores.softmax(dim=-1)[..., : key.shape[2]]
        output = weights.to(value.dtype) @ value
    return output.reshape(rows, heads, tokens, -1).transpose(1, 2).flatten(0, 1)[None]


def build_mask(
    *,
    q_length: int,
    kv_length: int,
    mask_function: Any,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    **kwargs: Any,
) -> torch.Tensor:
    """Evaluate a mask function at every token's own position: `[1, 1, tokens, length]`, bool.

    The kernel needs none to look no further than a token's position: `[1, 1, 1, 1]` for that.
    """
    plan = current()
    pictures = plan.pictures
    if mask_function is causal_mask_function and pictures is None and native.serves(device, dtype):
        return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device)
    zero = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=device)
    queries = plan.positions.view(1, 1, -1, 1)
    keys = torch.arange(kv_length, device=device).view(1, 1, 1, -1)
    mask: torch.Tensor = mask_function(zero, zero, queries, keys)
    if pictures is not None:
        first, stop = pictures.to(device).view(2, 1, 1, -1, 1)
        mask = mask | ((keys >= first) & (keys < stop))
    return mask.expand(1, 1, q_length, kv_length)
