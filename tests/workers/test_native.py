"""The attention operator in C++ computes what the definition says, for every mixture of rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from workers.engines import native

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")

SLOTS = [2, 0] + [1] * 21 + [3] * 60 + [2]
POSITIONS = [40, 0, *range(5, 26), *range(60), 41]
"""Single tokens, a piece of a prompt with something before it, a prompt, and one more token."""


@pytest.fixture(scope="module", autouse=True)
def operators(compile_dir: str) -> None:
    native.load(Path(compile_dir))


def define(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention token by token, head by head, in float64."""
    _, heads, tokens, _ = query.shape
    groups = heads // keys.shape[1]
    output = torch.zeros(1, tokens, heads, values.shape[3], dtype=torch.float64)
    for token, (slot, position) in enumerate(zip(SLOTS, POSITIONS, strict=True)):
        for head in range(heads):
            row = keys[slot, head // groups, : position + 1].double()
            scores = row @ query[0, head, token].double() * scale
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            scores = scores.masked_fill(~seen[token, : position + 1], -torch.inf)
            if sinks is not None:
                scores = torch.cat([scores, sinks[head : head + 1].double()])
            weights = scores.softmax(0)[: position + 1]
            output[0, token, head] = weights @ values[slot, head // groups, : position + 1].double()
    return output


FORMATS = [torch.float32, torch.bfloat16, torch.float16]
VARIANTS = ["causal", "window", "softcap", "sinks"]


def make(
    dtype: torch.dtype, heads: int, key_heads: int, dim: int, value_dim: int, variant: str
) -> tuple[torch.Tensor, ...]:
    """Query, keys, values, mask and, for the last variant, sinks."""
    torch.manual_seed(0)
    query = torch.randn(1, len(SLOTS), heads, dim).to(dtype).transpose(1, 2)
    keys = torch.randn(5, key_heads, 80, dim).to(dtype)
    values = torch.randn(5, key_heads, 80, value_dim).to(dtype)
    stop, positions = max(POSITIONS) + 1, torch.tensor(POSITIONS)[:, None]
    seen = torch.arange(stop) <= positions
    if variant == "window":
        seen &= torch.arange(stop) > positions - 20
    return query, keys, values, seen, torch.randn(heads)


@torch.inference_mode()
def attend(tokens: slice, variant: str, *inputs: torch.Tensor) -> torch.Tensor:
    """Attend from some of the tokens."""
    query, keys, values, seen, sinks = inputs
    causal = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    return native.attend(
        query[:, :, tokens],
        keys,
        values,
        causal if variant == "causal" else seen[None, None, tokens],
        torch.tensor(SLOTS)[tokens],
        torch.tensor(POSITIONS)[tokens],
        0.3,
        3.0 if variant == "softcap" else None,
        sinks if variant == "sinks" else None,
    )


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    ("heads", "key_heads", "dim", "value_dim"),
    [
        (9, 3, 64, 64),
        (4, 4, 32, 32),
        (6, 6, 96, 96),
        (14, 2, 128, 128),
        (8, 4, 256, 256),
        (6, 2, 20, 20),
        (4, 2, 16, 12),
    ],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_is_what_the_definition_says(
    dtype: torch.dtype, heads: int, key_heads: int, dim: int, value_dim: int, variant: str
) -> None:
    inputs = make(dtype, heads, key_heads, dim, value_dim, variant)
    query, keys, values, seen, sinks = inputs
    got = attend(slice(None), variant, *inputs)
    softcap = 3.0 if variant == "softcap" else None
    learned = sinks if variant == "sinks" else None
    expected = define(query, keys, values, seen, 0.3, softcap, learned)
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("heads", "dim"), [(9, 64), (3, 32), (3, 96), (6, 128), (6, 256), (6, 20)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_tokens_attention_does_not_depend_on_what_runs_beside_or_before_it(
    dtype: torch.dtype, heads: int, dim: int, variant: str
) -> None:
    inputs = make(dtype, heads, 3, dim, dim, variant)
    together = attend(slice(None), variant, *inputs)
    for run in (slice(2, 23), slice(23, 83), slice(23, 40), slice(35, 83), slice(83, 84)):
        assert torch.equal(attend(run, variant, *inputs), together[:, run])
    for token in range(len(SLOTS)):
        run = slice(token, token + 1)
        assert torch.equal(attend(run, variant, *inputs), together[:, run])


def test_loading_the_operators_leaves_the_smallest_numbers_alone() -> None:
    assert sys.float_info.min / 4 > 0
    assert torch.tensor(1e-40).mul(0.5).item() > 0
