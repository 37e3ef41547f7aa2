"""Keys and values of all running sequences: one tensor pair per layer, a row for each slot.

Owns the memory and where the next forward pass writes. transformers' models see an ordinary cache:
`update` writes each row at its own position and returns views, never copies, of the rows and of the
length in use. Knows nothing of sequences or of who owns which slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import Cache

Layers = list[list[torch.Tensor]]
"""Keys and values of each layer, `[rows, heads, length, dim]`."""


class SlotCache(Cache):
    """A cache of `slots` rows of at most `length` positions; layers appear when first written.

    It has rows and a position to spare: compiled code takes two rows at least, and never the whole
    of a dimension that may vary.
    """

    def __init__(self, slots: int, length: int) -> None:
        super().__init__(layers=[])
        self._rows = max(slots, 2) + 1
        self._length = length + 1
        self._pairs: dict[int, list[torch.Tensor]] = {}
        self._first = 0
        self._starts = torch.zeros(1, dtype=torch.long)
        self._stop = 0
        self._tokens = 1

    @classmethod
    def over(cls, layers: Layers) -> SlotCache:
        """Return a cache that writes to these tensors."""
        rows, _, length, _ = layers[0][0].shape
        cache = cls(rows - 1, length - 1)
        cache._pairs = dict(enumerate(layers))
        return cache

    def layers_in_use(self) -> Layers:
        """Return the tensors themselves, layer by layer.

        Raises:
            ValueError: some layers share another's states, or none has been written yet.
        """
        if not self._pairs or sorted(self._pairs) != list(range(len(self._pairs))):
            raise ValueError("the layers are not numbered from 0 on")
        return [self._pairs[index] for index in range(len(self._pairs))]

    def aim(self, first: int, starts: torch.Tensor, stop: int, tokens: int) -> None:
        """Set the rows of the next pass, from slot `first` on, and where each begins to write.

        `starts` is a vector of positions, `stop` the end of the longest row after the pass, and
        `tokens` how many each row gets.
        """
        self._first, self._starts, self._stop, self._tokens = first, starts, stop, tokens

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new states `[rows, heads, tokens, dim]`; return those of all positions in use."""
        if layer_idx not in self._pairs:
            self._pairs[layer_idx] = [self._allocate(key_states), self._allocate(value_states)]
        keys, values = self._pairs[layer_idx]
        return self._write(keys, key_states), self._write(values, value_states)

    @property
    def token_bytes(self) -> int:
        """Bytes that one position of one row takes, over the layers seen so far."""
        return sum(layer.nbytes for layer in self._all()) // (self._rows * self._length)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first positions of one row to another."""
        for layer in self._all():
            layer[target, :, :tokens] = layer[source, :, :tokens]

    def clear(self, slot: int) -> None:
        """Zero a row: a NaN left in it would spoil its next owner, even where it is masked."""
        for layer in self._all():
            layer[slot].zero_()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions in use by the longest row, before the pass."""
        return self._stop - self._tokens

    def get_query_offset(self, layer_idx: int = 0) -> torch.Tensor:  # type: ignore[override]
        """Position of each row's first new token, shaped to broadcast over a 4-D mask."""
        return self._starts.view(-1, 1, 1, 1)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length of the keys that `update` returns, and the position of the first."""
        return self._stop, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Positions per row."""
        return self._length

    def _all(self) -> Iterator[torch.Tensor]:
        return (layer for pair in self._pairs.values() for layer in pair)

    def _write(self, layer: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        rows, _, tokens, _ = states.shape
        stop = self._first + rows
        if rows == 1:
            layer[self._first, :, self._stop - tokens : self._stop] = states[0]
        else:
            # Into the whole tensor, not a view of it: compiled code would copy the view.
            places = self._starts[:, None] + torch.arange(tokens, device=layer.device)
            row_index = torch.arange(self._first, stop, device=layer.device)[:, None]
            layer[row_index, :, places] = states.transpose(1, 2)
        return layer[self._first : stop, :, : self._stop]

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        shape = (self._rows, states.shape[1], self._length, states.shape[3])
        if states.device.type != "cpu":
            return torch.zeros(shape, dtype=states.dtype, device=states.device)
        # numpy's zeros are pages that the system hands out when they are first written; torch's
        # are written at once, and most slots never see their full length.
        size = int(np.prod(shape)) * states.element_size()
        return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(states.dtype).view(shape)
