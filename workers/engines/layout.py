"""Where pictures stand in a sequence, and the rotary positions that follow from that.

Qwen-VL and its kin place a picture's tokens in time, height and width: a token's place in the cache
and the position that its keys are rotated by differ, and a picture of 100 tokens advances the text
behind it by 10. The model's own function says how. Knows nothing of the cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from workers.engines.pictures import Span

AXES = 3


class Rotary:
    """Rotary positions of one sequence, its answer to come included."""

    def __init__(self, prompt: torch.Tensor, offset: int) -> None:
        """Take those of the prompt, `[3, tokens]`; later ones are their place plus `offset`."""
        self._prompt = prompt
        self._offset = offset

    def at(self, start: int, stop: int) -> torch.Tensor:
        """Return the positions of places from `start` to `stop`, `[3, tokens]`."""
        length = self._prompt.shape[1]
        later = torch.arange(max(start, length), max(stop, length)) + self._offset
        return torch.cat([self._prompt[:, start:stop], later.expand(AXES, -1)], dim=1)


@dataclass(frozen=True, slots=True)
class Layout:
    """A sequence's pictures; `rotary` is None if rotary positions are the places themselves."""

    spans: tuple[Span, ...] = ()
    rotary: Rotary | None = None


NO_PICTURES = Layout()


class Placement:
    """How a model places pictures.

    `axes` is the number of its rotary positions for a token, `is_two_way` whether the tokens of a
    picture see each other in both directions.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._index: Any = getattr(getattr(model, "model", model), "get_rope_index", None)
        self.axes = AXES if self._index else 1
        # Models that are told which tokens are a picture's use it for just that (Gemma 3).
        self.is_two_way = "token_type_ids" in inspect.signature(model.forward).parameters

    def lay_out(self, ids: Sequence[int], spans: Sequence[Span]) -> Layout:
        """Find the rotary positions of a prompt."""
        return Layout(tuple(spans), self._rotary(ids, spans) if self._index else None)

    def joints(self, spans: Sequence[Span]) -> tuple[range, ...]:
        """Return the stretches of a prompt that have to be computed in one pass."""
        if not self.is_two_way:
            return ()
        return tuple(range(span.positions[0], span.positions[-1] + 1) for span in spans)

    def _rotary(self, ids: Sequence[int], spans: Sequence[Span]) -> Rotary:
        kinds = torch.zeros((1, len(ids)), dtype=torch.int)
        for span in spans:
            kinds[0, list(span.positions)] = 1
        grids = [span.pixels.inputs["image_grid_thw"] for span in spans]
        found, offset = self._index(
            input_ids=torch.tensor([ids]),
            mm_token_type_ids=kinds,
            image_grid_thw=torch.cat(grids) if grids else None,
        )
        return Rotary(found[:, 0], int(offset))
