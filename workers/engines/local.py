"""Continuous batching in plain transformers, for text and image-text models alike.

Owns a model, the rows of its cache and what is sampled from it. Any Hugging Face model that goes
through transformers' attention interface runs without model code of ours; one that would run
wrongly is refused when it is loaded.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from PIL import Image

from broker.errors import WorkerFailed
from broker.messages import GenerateRequest
from workers.engines.base import Batch, EngineBroken, EngineOptions, Loading, Sampled
from workers.engines.cache import SlotCache
from workers.engines.checkpoint import load_checkpoint
from workers.engines.compiled import Compiler
from workers.engines.layout import Layout
from workers.engines.memory import measure
from workers.engines.pictures import Key, Span
from workers.engines.preparer import Preparer
from workers.engines.runner import Piece, Runner
from workers.engines.selfcheck import check
from workers.engines.slots import Keys, Slots
from workers.row import Row
from workers.sampling import sample
from workers.sequence import Sequence

log = logging.getLogger(__name__)

_PROBE = Key("probe", 2)
_BROKEN = ("CUDA error", "device-side assert", "CUBLAS_STATUS", "CUDNN_STATUS", "HIP error")
"""After errors that say so, every later call of the process fails as well."""


@contextmanager
def _noticing_broken_device() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        known = isinstance(error, torch.AcceleratorError)
        if known or any(mark in str(error) for mark in _BROKEN):
            raise EngineBroken(f"the device broke: {error}") from error
        raise


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
        self.room = measure(options, checkpoint.max_length, token_bytes)
        self.context_length = self.room.context_length
        log.info("keys and values: %d slots, %s", self.slots, self.room)
        self._preparer = Preparer(checkpoint, self.context_length, options.max_image_pixels)
        cache = SlotCache(self.slots, self.context_length)
        self.runner = Runner(model, cache)
        if checkpoint.pictures is not None:
            self.runner.tower.learn_to_split(checkpoint.pictures.process(_PROBE, _probe()))
        if options.compile != "off":
            settled = replace(options, context_length=self.context_length)
            self._compiler = Compiler(settled, model)
            self._compiler.start(self.runner.switch_over)
        self._slots = Slots(self.slots, self.room.tokens)
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

    def count_tokens(self, text: str) -> int:
        """See `Engine.count_tokens`."""
        return self._preparer.count_tokens(text)

    @_noticing_broken_device()
    def admit(self, sequence: Sequence) -> bool:
        """See `Engine.admit`."""
        seat = self._slots.take(sequence, _keys(sequence, len(sequence.ids)))
        if seat is None:
            return False
        sequence.slot = seat.slot
        for slot in seat.dropped:
            self.runner.give_back(slot)
        if seat.shared and seat.source != seat.slot:
            self.runner.copy(seat.source, seat.slot, seat.shared)
        sequence.cached = sequence.reused = seat.shared
        return True

    def ready(self, sequence: Sequence) -> int:
        """See `Engine.ready`."""
        for span in _needed(sequence):
            if not self.runner.tower.has(span.pixels):
                return span.positions[span.overlap(0, sequence.cached).stop]
        return len(sequence.ids)

    @_noticing_broken_device()
    @torch.inference_mode()
    def look(self, sequence: Sequence, deadline_s: float) -> None:
        """See `Engine.look`; at one picture, as the next might push it out of memory again."""
        for span in _needed(sequence)[:1]:
            with _heeding_memory("a picture"):
                self.runner.tower.work(span.pixels, deadline_s)

    @_noticing_broken_device()
    def step(self, batch: Batch) -> list[Sampled | None]:
        """See `Engine.step`: everything in one pass. Neighbouring rows attend together."""
        decodes = sorted(batch.decodes, key=_slot)
        pieces = [
            Piece(_slot(each), each.ids[each.cached :], each.cached, layout=_layout(each))
            for each in decodes
        ] + [
            Piece(
                _slot(chunk.sequence),
                chunk.sequence.ids[chunk.start : chunk.stop],
                chunk.start,
                chunk.is_last,
                _layout(chunk.sequence),
            )
            for chunk in batch.prefills
        ]
        asked = [*decodes, *(chunk.sequence for chunk in batch.prefills if chunk.is_last)]
        with _heeding_memory(f"{sum(len(piece.ids) for piece in pieces)} tokens"):
            logits = self.runner.run(pieces)
        found = dict(zip(asked, self._sample(logits, asked), strict=True)) if asked else {}
        return [found.get(sequence) for sequence in batch.sequences]

    @_noticing_broken_device()
    def release(self, sequence: Sequence) -> None:
        """Free the sequence's slot, which goes on holding what was computed."""
        slot, sequence.slot = sequence.slot, None
        if slot is None:
            return
        held = sequence.cached
        if sequence in self._spoiled:
            self._spoiled.remove(sequence)
            self.runner.clear(slot)
            held = 0
        self._slots.leave(slot, _keys(sequence, held))

    def _sample(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[Sampled]:
        broken = logits.amax(dim=-1).isnan()  # the greatest of numbers of which one is none
        if broken.any():
            self._spoiled.update(
                each for each, bad in zip(sequences, broken.tolist(), strict=True) if bad
            )
            raise WorkerFailed("The model computed numbers that are none; try another wording.")
        return sample(logits, [_row(sequence) for sequence in sequences])


@contextmanager
def _heeding_memory(what: str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise WorkerFailed(
            f"The worker ran out of memory on {what} of this request. Shorten it, send fewer "
            "images or tiles, or try again later."
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "not enough memory" in str(error) or "can't allocate memory" in str(error)


def _slot(sequence: Sequence) -> int:
    if sequence.slot is None:
        raise ValueError(f"request {sequence.request_id} has not been admitted")
    return sequence.slot


def _probe() -> Image.Image:
    """A picture that is cut into two tiles at least, by models that cut pictures."""
    return Image.radial_gradient("L").convert("RGB").resize((512, 256))


def _layout(sequence: Sequence) -> Layout:
    return cast(Layout, sequence.payload)


def _needed(sequence: Sequence) -> list[Span]:
    """Pictures that are not computed yet, or not all of them."""
    return [span for span in _layout(sequence).spans if span.positions[-1] >= sequence.cached]


def _keys(sequence: Sequence, length: int) -> Keys:
    """What the first positions of a sequence are computed from."""
    keys = np.array(sequence.ids[:length], dtype=np.int64)
    for span in _layout(sequence).spans:
        rows = span.overlap(0, length)
        digest = hashlib.blake2b(repr(span.pixels.key).encode(), digest_size=7).digest()
        places = np.fromiter(rows, dtype=np.int64)
        keys[[span.positions[row] for row in rows]] = -1 - places - int.from_bytes(digest)
    return keys


def _row(sequence: Sequence) -> Row:
    if not isinstance(sequence.draws, Row):
        sequence.draws = Row(
            sequence.sampling, sequence.prompt_ids, sequence.output_ids, sequence.stop_ids
        )
    return sequence.draws
