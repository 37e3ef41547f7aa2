"""One forward pass of the model over slots of the cache: prefill a row, or decode several.

Owns the model and its cache, and turns ids and picture features into logits. Knows slots and
positions, not sequences: who sits where is the engine's business.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from workers.engines.cache import Layers, SlotCache
from workers.engines.compiled import MIN_ROWS, Compiled
from workers.engines.pictures import FeatureCache, Span


class Runner:
    """Runs a transformers model against a slot cache."""

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        self._model = model
        self._cache = cache
        self._embed = model.get_input_embeddings()
        self._device = model.device
        self._compiled: Compiled | None = None
        self._layers: Layers = []
        self._span = torch.zeros(cache.get_max_length(), dtype=torch.uint8)
        self.features = FeatureCache(model)

    def switch_over(self, compiled: Compiled) -> None:
        """Decode with compiled code from now on; safe to call from another thread."""
        self._compiled = compiled

    @property
    def least_rows(self) -> int:
        """Rows that `decode` computes at least, from slot 0 on; 0 if any one row will do."""
        return MIN_ROWS if self._compiled else 0

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
        stop = max(starts) + 1
        if self._compiled is not None and first == 0 and stop > 1:
            return self._decode_compiled(self._compiled, ids, starts)
        embeddings = self._embed(torch.tensor(ids, device=self._device)[:, None])
        return self._forward(first, embeddings, torch.tensor(starts, device=self._device), stop)

    @torch.inference_mode()
    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row of the cache to another slot."""
        self._cache.move(source, target, tokens)

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """Wipe a row of the cache."""
        self._cache.clear(slot)

    def _decode_compiled(
        self, compiled: Compiled, ids: list[int], starts: list[int]
    ) -> torch.Tensor:
        """Decode; a row that is missing up to `MIN_ROWS` belongs to nobody and gets anything."""
        rows, spare = len(ids), [0] * (MIN_ROWS - len(ids))
        if not self._layers:
            self._layers = self._cache.layers_in_use()
        span = self._span[: max(starts) + 1]
        logits = compiled(
            torch.tensor(ids + spare), torch.tensor(starts + spare), span, self._layers
        )
        return logits[:rows]

    def _forward(
        self, first: int, embeddings: torch.Tensor, starts: torch.Tensor, stop: int
    ) -> torch.Tensor:
        self._cache.aim(first, starts, stop, embeddings.shape[1])
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
