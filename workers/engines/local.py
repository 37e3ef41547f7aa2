"""Continuous batching in plain transformers, for text and image-text models alike.

Owns the slots: running sequences sit in slots 0 to n-1 without gaps, so the rows of a pass are a
view of the cache. Any Hugging Face model that goes through transformers' attention interface runs
without model code of ours; one that would run wrongly is refused when it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch

from broker.errors import ConfigurationError, WorkerFailed
from broker.messages import GenerateRequest
from workers.engines.base import Batch, Chunk, EngineOptions, Loading, Sampled
from workers.engines.cache import SlotCache
from workers.engines.checkpoint import Checkpoint, load_checkpoint
from workers.engines.compiled import Compiler
from workers.engines.pictures import Span
from workers.engines.preparer import Preparer
from workers.engines.runner import Runner
from workers.engines.selfcheck import check
from workers.row import Row
from workers.sampling import sample
from workers.sequence import Sequence

_CPU_CONTEXT = 4096
_CUDA_SHARE = 0.8
"""Share of the free GPU memory that keys and values may take."""


class LocalEngine:
    """Runs one checkpoint on one device."""

    name = "local"

    def __init__(self, options: EngineOptions, progress: Loading) -> None:
        checkpoint = load_checkpoint(options, progress)
        model = checkpoint.model
        self.device = str(model.device)
        self.slots = options.slots
        self.images = checkpoint.pictures is not None
        self.chunk_tokens = 128 if model.device.type == "cpu" else 1024
        token_bytes = check(model, checkpoint.pictures)
        progress(95)
        self.context_length = _choose_context(options, checkpoint, token_bytes)
        self._preparer = Preparer(checkpoint, self.context_length, options.max_image_pixels)
        cache = SlotCache(self.slots, self.context_length)
        self._runner = Runner(model, cache)
        if options.compile != "off":
            settled = replace(options, context_length=self.context_length)
            self._compiler = Compiler(settled, model)
            self._compiler.start(self._runner.switch_over)
        self._seated: list[Sequence] = []
        self._spoiled: set[Sequence] = set()
        progress(100)

    def prepare(
        self,
        request: GenerateRequest,
        images: Mapping[str, bytes],
        resume_ids: tuple[int, ...] = (),
    ) -> Sequence:
        """See `Engine.prepare`."""
        return self._preparer.prepare(request, images, resume_ids)

    def step(self, batch: Batch) -> list[Sampled | None]:
        """See `Engine.step`. Decodes come first: see `_decode`."""
        decoded = self._decode(batch.decodes) if batch.decodes else []
        return [*(self._prefill(chunk) for chunk in batch.prefills), *decoded]

    def release(self, sequence: Sequence) -> None:
        """Free the sequence's slot; the last sequence moves into it."""
        slot, sequence.slot = sequence.slot, None
        if slot is None:
            return
        if sequence in self._spoiled:
            self._spoiled.remove(sequence)
            self._runner.clear(slot)
        last = self._seated.pop()
        if last is not sequence:
            # How far `last` is cached may be about to change: all its ids are surely enough.
            self._runner.move(len(self._seated), slot, len(last.ids))
            self._seated[slot], last.slot = last, slot

    def _seat(self, sequence: Sequence) -> int:
        if sequence.slot is None:
            sequence.slot = len(self._seated)
            self._seated.append(sequence)
        return sequence.slot

    def _prefill(self, chunk: Chunk) -> Sampled | None:
        sequence = chunk.sequence
        ids = sequence.ids[chunk.start : chunk.stop]
        spans = cast(tuple[Span, ...], sequence.payload)
        logits = self._runner.prefill(self._seat(sequence), ids, chunk.start, spans)
        return self._sample(logits, (sequence,))[0] if chunk.is_last else None

    def _decode(self, sequences: tuple[Sequence, ...]) -> list[Sampled]:
        """Decode the rows from the first to the last slot concerned.

        Rows between them that are still prefilling are computed along. What they write lies behind
        what they have cached, and the prefill that follows writes over it.
        """
        slots = [self._seat(sequence) for sequence in sequences]
        least = self._runner.least_rows
        first = 0 if least else min(slots)
        rows = self._seated[first : max(*slots, least - 1) + 1]
        ids = [sequence.ids[sequence.cached] for sequence in rows]
        logits = self._runner.decode(first, ids, [sequence.cached for sequence in rows])
        if len(rows) > len(slots) or slots != sorted(slots):
            logits = logits[[slot - first for slot in slots]]
        return self._sample(logits, sequences)

    def _sample(self, logits: torch.Tensor, sequences: tuple[Sequence, ...]) -> list[Sampled]:
        broken = logits.isnan().any(dim=-1)
        if broken.any():
            self._spoiled.update(
                each for each, bad in zip(sequences, broken.tolist(), strict=True) if bad
            )
            raise WorkerFailed("The model computed numbers that are none; try another wording.")
        return sample(logits, [_row(sequence) for sequence in sequences])


def _row(sequence: Sequence) -> Row:
    if not isinstance(sequence.draws, Row):
        sequence.draws = Row(
            sequence.sampling, sequence.prompt_ids, sequence.output_ids, sequence.stop_ids
        )
    return sequence.draws


def _choose_context(options: EngineOptions, checkpoint: Checkpoint, token_bytes: int) -> int:
    """Tokens per slot: what was asked for, or what the model and the memory allow."""
    longest, device = checkpoint.max_length, checkpoint.model.device
    if options.context_length is not None:
        if options.context_length > longest:
            raise ConfigurationError(f"the model's context length is {longest} at most")
        return options.context_length
    if device.type != "cuda":
        return min(longest, _CPU_CONTEXT)
    free_bytes = torch.cuda.mem_get_info(device)[0] * _CUDA_SHARE
    return min(longest, int(free_bytes / (token_bytes * options.slots)))
