"""The next token of each row, drawn reproducibly.

A draw depends on the row's logits, its seed and the position of the token in the answer, on nothing
else: not on the batch, the slot, or whether the answer was taken over from another worker.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

_NUCLEUS = 256
"""Most likely tokens looked at first; sorting a whole vocabulary costs ten times as much."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row's token is drawn; temperature 0 takes the most likely one."""

    temperature: float
    top_p: float
    seed: int
    position: int


def sample(logits: torch.Tensor, draws: list[Draw]) -> list[int]:
    """Draw a token for each row of `[rows, vocabulary]` logits."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    rows = [row for row, draw in enumerate(draws) if draw.temperature > 0]
    if not rows:
        return tokens
    chosen = _draw(logits[rows].float(), [draws[row] for row in rows])
    for row, token in zip(rows, chosen, strict=True):
        tokens[row] = token
    return tokens


def _draw(logits: torch.Tensor, draws: list[Draw]) -> list[int]:
    temperature = logits.new_tensor([[draw.temperature] for draw in draws])
    probabilities = torch.softmax(logits / temperature, dim=-1)
    for row, draw in enumerate(draws):
        if draw.top_p < 1.0:
            _keep_nucleus(probabilities[row], draw.top_p)
    heaped = probabilities.double().cumsum(dim=-1)
    points = heaped.new_tensor([[uniform(draw.seed, draw.position)] for draw in draws])
    places = torch.searchsorted(heaped, points * heaped[:, -1:], right=True)
    tokens: list[int] = places.squeeze(-1).tolist()
    return tokens


def _keep_nucleus(probabilities: torch.Tensor, top_p: float) -> None:
    """Zero, in place, all but the fewest most likely tokens that reach `top_p` together."""
    best = probabilities.topk(min(_NUCLEUS, len(probabilities))).values
    heaped = best.cumsum(dim=-1)
    if heaped[-1] < top_p:
        best = probabilities.sort(descending=True).values
        heaped = best.cumsum(dim=-1)
    count = int((heaped < top_p).sum())
    probabilities[probabilities < best[min(count, len(best) - 1)]] = 0.0


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) that is a fixed function of seed and position."""
    key = seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
