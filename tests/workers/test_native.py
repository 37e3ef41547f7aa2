"""The attention operator in C++ computes what the definition says, for every mixture of rows."""

from __future__ import annotations

import sys

import pytest
import torch

from workers.engines import native

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")

SLOTS = [2, 0] + [1] * 21 + [3] * 60 + [2]
POSITIONS = [40, 0, *range(5, 26), *range(60), 41]
"""Single tokens, a piece of a prompt with something before it, a prompt, and one more token."""


@pytest.fixture(scope="module", autouse=True)
def operators(tmp_path_factory: pytest.TempPathFactory) -> None:
    native.load(tmp_path_factory.mktemp("operators"))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("heads", "key_heads", "dim", "value_dim"),
    [(9, 3, 64, 64), (4, 4, 32, 32), (14, 2, 128, 128), (6, 2, 20, 20), (4, 2, 16, 12)],
)
@pytest.mark.parametrize("variant", ["causal", "window", "softcap", "sinks"])
def test_attention_is_what_the_definition_says(
    dtype: torch.dtype, heads: int, key_heads: int, dim: int, value_dim: int, variant: str
) -> None:
    torch.manual_seed(0)
    tokens, stop = len(SLOTS), max(POSITIONS) + 1
    query = torch.randn(1, tokens, heads, dim).to(dtype).transpose(1, 2)
    keys = torch.randn(5, key_heads, 80, dim).to(dtype)
    values = torch.randn(5, key_heads, 80, value_dim).to(dtype)
    slots, positions = torch.tensor(SLOTS), torch.tensor(POSITIONS)
    seen = torch.arange(stop) <= positions[:, None]
    if variant == "window":
        seen &= torch.arange(stop) > positions[:, None] - 7
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool) if variant == "causal" else seen[None, None]
    softcap = 3.0 if variant == "softcap" else None
    sinks = torch.randn(heads) if variant == "sinks" else None
    with torch.inference_mode():
        got = native.attend(query, keys, values, mask, slots, positions, 0.3, softcap, sinks)
    expected = define(query, keys, values, seen, 0.3, softcap, sinks)
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_tokens_attention_does_not_depend_on_what_runs_beside_it() -> None:
    torch.manual_seed(0)
    query = torch.randn(1, len(SLOTS), 9, 64).bfloat16().transpose(1, 2)
    keys, values = torch.randn(2, 5, 3, 80, 64).bfloat16()
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    slots, positions = torch.tensor(SLOTS), torch.tensor(POSITIONS)
    with torch.inference_mode():
        all_of = native.attend(query, keys, values, mask, slots, positions, 0.1, None, None)
        for run in (slice(0, 1), slice(2, 23), slice(23, 83), slice(83, 84)):
            alone = native.attend(
                query[:, :, run], keys, values, mask, slots[run], positions[run], 0.1, None, None
            )
            assert torch.equal(alone, all_of[:, run])


def test_loading_the_operators_leaves_the_smallest_numbers_alone() -> None:
    assert sys.float_info.min / 4 > 0
    assert torch.tensor(1e-40).mul(0.5).item() > 0
