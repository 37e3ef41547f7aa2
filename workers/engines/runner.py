"""One forward pass of the model over slots of the cache: prefill a row, or decode several.

Owns the model and its cache, and turns ids and picture features into logits. Knows slots and
positions, not sequences: who sits where is the engine's business.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from workers.engines.cache import SlotCache
from workers.engines.pictures import FeatureCache, Span


class Runner:
    """Runs a transformers model against a slot cache."""

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        self._model = model
        self._cache = cache
        self._embed = model.get_input_embeddings()
        self._device = model.device
        self.features = FeatureCache(model)

    @torch.inference_mode()
    def prefill(
        self, slot: int, ids: list[int], start: int, spans: tuple[Span, ...]
    ) -> torch.Tensor:
        """Run one row's ids from position `start` on; return the last one's logits `[1, vocab]`."""
        stop = start + len(ids)
        embeddings = self._embed(torch.tensor([ids], device=self._device))
        for span in spans:
            rows = span.overlap(start, stop)
            if rows:
                features = self.features.get(span.pixels)[rows.start : rows.stop]
                places = [span.positions[row] - start for row in rows]
                embeddings[0, places] = features.to(embeddings)
        return self._forward(slot, embeddings, torch.tensor([start], device=self._device), stop)

    @torch.inference_mode()
    def decode(self, first: int, ids: list[int], starts: list[int]) -> torch.Tensor:
        """Run one id in each row from slot `first` on, at its position; return `[rows, vocab]`."""
        embeddings = self._embed(torch.tensor(ids, device=self._device)[:, None])
        places = torch.tensor(starts, device=self._device)
        return self._forward(first, embeddings, places, max(starts) + 1)

    @torch.inference_mode()
    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row of the cache to another slot."""
        self._cache.move(source, target, tokens)

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """Wipe a row of the cache."""
        self._cache.clear(slot)

    def _forward(
        self, first: int, embeddings: torch.Tensor, starts: torch.Tensor, stop: int
    ) -> torch.Tensor:
        self._cache.aim(first, starts, stop)
        offsets = torch.arange(embeddings.shape[1], device=self._device)
        arguments: dict[str, Any] = {
            "inputs_embeds": embeddings,
            "position_ids": starts[:, None] + offsets,
            "past_key_values": self._cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        logits: torch.Tensor = self._model(**arguments).logits[:, -1]
        return logits
