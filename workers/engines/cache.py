"""Keys and values of all sequences: one tensor pair per layer, a row for each slot.

Owns the memory. transformers' models see an ordinary cache: `update` writes each token of the
current plan at its own row and position, and returns the whole tensors, which attention reads by
the same plan. Knows nothing of sequences or of who owns which slot.
"""

from __future__ import annotations

import math
import mmap
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from workers.engines.plan import current, make_plan

Layers = list[list[torch.Tensor]]
"""Keys and values of each layer, `[rows, heads, length, dim]`."""


class SlotCache(Cache):
    """A cache of `slots` rows of `length` positions; layers appear when first written.

    It has a row to spare, for tokens that belong to nobody.
    """

    def __init__(self, slots: int, length: int) -> None:
        super().__init__(layers=[])
        self.spare = slots
        self._shape = (slots + 1, length)
        self._pairs: dict[int, list[torch.Tensor]] = {}
        self._pages: list[tuple[mmap.mmap, int]] = []

    @classmethod
    def over(cls, layers: Layers) -> SlotCache:
        """Return a cache that writes to these tensors."""
        rows, _, length, _ = layers[0][0].shape
        cache = cls(rows - 1, length)
        cache._pairs = dict(enumerate(layers))
        return cache

    @torch.no_grad()
    def lay_out(self, model: PreTrainedModel) -> None:
        """Make the tensors, in the shapes that a model writes: by a pass of the spare row."""
        plan = make_plan([self.spare], [0], model.device)
        ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
        with plan.in_use():
            model(
                inputs_embeds=model.get_input_embeddings()(ids),
                position_ids=plan.positions[None],
                past_key_values=self,
                use_cache=True,
            )

    def layers_in_use(self) -> Layers:
        """Return the tensors themselves, layer by layer.

        Raises:
            ValueError: some layers share another's states, or none has been written yet.
        """
        if not self._pairs or sorted(self._pairs) != list(range(len(self._pairs))):
            raise ValueError("the layers are not numbered from 0 on")
        return [self._pairs[index] for index in range(len(self._pairs))]

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new states `[1, heads, tokens, dim]`; return the whole layer's."""
        if layer_idx not in self._pairs:
            self._pairs[layer_idx] = [self._allocate(key_states), self._allocate(value_states)]
        keys, values = self._pairs[layer_idx]
        slots, positions = current().on(keys.device)
        # By index into the whole tensor, not a view of it: compiled code would copy the view.
        keys[slots, :, positions] = key_states[0].transpose(0, 1)
        values[slots, :, positions] = value_states[0].transpose(0, 1)
        return keys, values

    @property
    def token_bytes(self) -> dict[torch.device, int]:
        """Bytes that one position of one row takes, by device, over the layers seen so far."""
        rows, length = self._shape
        found: dict[torch.device, int] = defaultdict(int)
        for layer in self._all():
            found[layer.device] += layer.nbytes // (rows * length)
        return dict(found)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first positions of one row to another."""
        for layer in self._all():
            layer[target, :, :tokens] = layer[source, :, :tokens]

    def clear(self, slot: int) -> None:
        """Zero a row: a NaN left in it would spoil its next owner, even where it is masked."""
        for layer in self._all():
            layer[slot].zero_()

    def give_back(self, slot: int) -> None:
        """Give a row's memory back to the system, where it is taken as it is used."""
        for pages, row_bytes in self._pages:
            first = -(-slot * row_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
            size = (slot + 1) * row_bytes // mmap.PAGESIZE * mmap.PAGESIZE - first
            if size > 0:
                pages.madvise(mmap.MADV_DONTNEED, first, size)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions before the pass; each token has its own, so that models are told 0."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the first token: see `get_seq_length`."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Positions that the mask covers, and the first of them."""
        return current().stop, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Positions per row."""
        return self._shape[1]

    def _all(self) -> Iterator[torch.Tensor]:
        return (layer for pair in self._pairs.values() for layer in pair)

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        rows, length = self._shape
        shape = (rows, states.shape[1], length, states.shape[3])
        if states.device.type != "cpu":
            return torch.zeros(shape, dtype=states.dtype, device=states.device)
        # Pages that the system hands out when they are first written: most slots never see their
        # full length, and what a slot has taken can be given back.
        row_bytes = math.prod(shape[1:]) * states.element_size()
        pages = mmap.mmap(-1, rows * row_bytes)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        self._pages.append((pages, row_bytes))
        return torch.frombuffer(pages, dtype=states.dtype).view(shape)
