"""One forward pass of the model over rows of the cache, for any mixture of prompts and answers.

Owns the model and its cache, and turns ids and picture features into logits. Knows slots and
positions, not sequences: who sits where is the engine's business.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel

from workers.engines import deepstack
from workers.engines.cache import Layers, SlotCache
from workers.engines.compiled import MIN_TOKENS, Compiled
from workers.engines.layout import AXES, NO_PICTURES, Layout, Placement
from workers.engines.plan import make_plan
from workers.engines.vision import VisionTower


@dataclass(frozen=True, slots=True)
class Piece:
    """Ids of one row from position `start` on; `is_asked` if logits of the last are wanted."""

    slot: int
    ids: Sequence[int]
    start: int
    is_asked: bool = True
    layout: Layout = NO_PICTURES

    @property
    def stop(self) -> int:
        """Length of the row after the pass."""
        return self.start + len(self.ids)


class Runner:
    """Runs a transformers model against a slot cache."""

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        self.tower = VisionTower(model)
        self._model = model
        self._cache = cache
        self._embed = model.get_input_embeddings()
        self._placement = Placement(model)
        self._levels = deepstack.levels(model)
        self._device = model.device
        self._selects = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.compiled: Compiled | None = None
        cache.lay_out(model)
        self._layers: Layers = []
        self._span = torch.zeros(cache.get_max_length(), dtype=torch.uint8)

    def switch_over(self, compiled: Compiled) -> None:
        """Run compiled code from now on; safe to call from another thread."""
        self.compiled = compiled

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Run all pieces in one pass; return `[asked, vocab]`, a row for each that is asked."""
        compiled = self.compiled
        kept, first = [], 0
        for piece in pieces:
            first += len(piece.ids)
            if piece.is_asked:
                kept.append(first - 1)
        if compiled is not None:
            pieces = self._pad(pieces, first)
        slots = [piece.slot for piece in pieces for _ in piece.ids]
        positions = list(chain.from_iterable(range(each.start, each.stop) for each in pieces))
        embeddings = self._embed_all(pieces)
        rotary = self._rotary(pieces, positions)
        pictures = self._pictures(pieces) if self._placement.is_two_way else None
        if compiled is None or pictures is not None:
            return self._run_eagerly(embeddings, slots, positions, rotary, pictures, kept)
        return self._run_compiled(compiled, embeddings, slots, positions, rotary, kept)

    @torch.inference_mode()
    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first positions of a row of the cache to another slot."""
        self._cache.copy(source, target, tokens)

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """Wipe a row of the cache."""
        self._cache.clear(slot)

    def give_back(self, slot: int) -> None:
        """Give the memory of a row of the cache back to the system."""
        self._cache.give_back(slot)

    def _pad(self, pieces: Sequence[Piece], tokens: int) -> Sequence[Piece]:
        missing = MIN_TOKENS - tokens
        return pieces if missing <= 0 else [*pieces, Piece(self._cache.spare, [0] * missing, 0)]

    def _embed_all(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Embed ids, and put pictures' features in their places: `[1, tokens, hidden]`.

        Where pictures add to layers as well, `hidden` has those levels behind the embedding.
        """
        ids = list(chain.from_iterable(piece.ids for piece in pieces))
        embeddings: torch.Tensor = self._embed(torch.tensor([ids], device=self._device))
        if self._levels:
            embeddings = pad(embeddings, (0, self._levels * embeddings.shape[-1]))
        first = 0
        for piece in pieces:
            for span in piece.layout.spans:
                rows = span.overlap(piece.start, piece.stop)
                if rows:
                    features = self.tower.get(span.pixels)[rows.start : rows.stop]
                    places = [first + span.positions[row] - piece.start for row in rows]
                    embeddings[0, places] = features.to(embeddings)
            first += len(piece.ids)
        return embeddings

    def _rotary(self, pieces: Sequence[Piece], positions: list[int]) -> torch.Tensor:
        """Rotary positions, `[1, tokens]`, or `[3, 1, tokens]` where pictures have three axes."""
        if self._placement.axes == 1:
            return torch.tensor([positions], device=self._device)
        parts = [
            piece.layout.rotary.at(piece.start, piece.stop)
            if piece.layout.rotary
            else torch.arange(piece.start, piece.stop).expand(AXES, -1)
            for piece in pieces
        ]
        return torch.cat(parts, dim=1)[:, None].to(self._device)

    def _pictures(self, pieces: Sequence[Piece]) -> torch.Tensor | None:
        """The range of its picture for each token, `[2, tokens]`; None if there are no pictures."""
        ranges = torch.zeros((2, sum(len(piece.ids) for piece in pieces)), dtype=torch.long)
        first, found = 0, False
        for piece in pieces:
            for joint in self._placement.joints(piece.layout.spans):
                start, stop = max(joint.start, piece.start), min(joint.stop, piece.stop)
                if start < stop:
                    found = True
                    part = slice(first + start - piece.start, first + stop - piece.start)
                    ranges[:, part] = torch.tensor([[joint.start], [joint.stop]])
            first += len(piece.ids)
        return ranges.to(self._device) if found else None

    def _run_eagerly(
        self,
        embeddings: torch.Tensor,
        slots: list[int],
        positions: list[int],
        rotary: torch.Tensor,
        pictures: torch.Tensor | None,
        kept: list[int],
    ) -> torch.Tensor:
        width = self._embed.embedding_dim
        plan = make_plan(
            slots,
            positions,
            self._device,
            pictures=pictures,
            additions=embeddings[..., width:] if self._levels else None,
        )
        keep = torch.tensor(kept or [0], device=self._device)
        arguments: dict[str, Any] = {"logits_to_keep": keep} if self._selects else {}
        with plan.in_use():
            output = self._model(
                inputs_embeds=embeddings[..., :width],
                position_ids=rotary,
                past_key_values=self._cache,
                use_cache=True,
                **arguments,
            )
        logits: torch.Tensor = output.logits[0] if self._selects else output.logits[0, keep]
        return logits[: len(kept)]

    def _run_compiled(
        self,
        compiled: Compiled,
        embeddings: torch.Tensor,
        slots: list[int],
        positions: list[int],
        rotary: torch.Tensor,
        kept: list[int],
    ) -> torch.Tensor:
        if not self._layers:
            self._layers = self._cache.layers_in_use()
        keep = torch.tensor(kept + [0] * (MIN_TOKENS - len(kept)))
        stop = max(max(positions) + 1, MIN_TOKENS)
        where = torch.tensor(slots), torch.tensor(positions), rotary, keep, self._span[:stop]
        return compiled(embeddings, *where, self._layers)[: len(kept)]
