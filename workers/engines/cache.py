"""Keys and values of all running sequences: one tensor pair per layer, a row for each slot.

Owns the memory and where the next forward pass writes. transformers' models see an ordinary cache:
`update` writes each row at its own position and returns views, never copies, of the rows and of the
length in use. Knows nothing of sequences or of who owns which slot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import Cache


class SlotCache(Cache):
    """A cache of `slots` rows of at most `length` positions; layers appear when first written."""

    def __init__(self, slots: int, length: int) -> None:
        super().__init__(layers=[])
        self._slots = slots
        self._length = length
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        self._first = 0
        self._starts = torch.zeros(1, dtype=torch.long)
        self._stop = 0

    def aim(self, first: int, starts: torch.Tensor, stop: int) -> None:
        """Set the rows of the next pass, from slot `first` on, and where each begins to write.

        `starts` is a vector of positions; `stop` is the end of the longest row after the pass.
        """
        self._first, self._starts, self._stop = first, starts, stop

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new states `[rows, heads, tokens, dim]`; return those of all positions in use."""
        if layer_idx not in self._keys:
            self._keys[layer_idx] = self._allocate(key_states)
            self._values[layer_idx] = self._allocate(value_states)
        keys = self._write(self._keys[layer_idx], key_states)
        return keys, self._write(self._values[layer_idx], value_states)

    @property
    def token_bytes(self) -> int:
        """Bytes that one position of one row takes, over the layers seen so far."""
        tensors = (*self._keys.values(), *self._values.values())
        return sum(tensor.nbytes for tensor in tensors) // (self._slots * self._length)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first positions of one row to another."""
        for layer in (*self._keys.values(), *self._values.values()):
            layer[target, :, :tokens] = layer[source, :, :tokens]

    def clear(self, slot: int) -> None:
        """Zero a row: a NaN left in it would spoil its next owner, even where it is masked."""
        for layer in (*self._keys.values(), *self._values.values()):
            layer[slot].zero_()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions in use by the longest row, before the pass."""
        return int(self._starts.max())

    def get_query_offset(self, layer_idx: int = 0) -> torch.Tensor:  # type: ignore[override]
        """Position of each row's first new token, shaped to broadcast over a 4-D mask."""
        return self._starts.view(-1, 1, 1, 1)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length of the keys that `update` returns, and the position of the first."""
        return self._stop, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Positions per row."""
        return self._length

    def _write(self, layer: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        rows, _, tokens, _ = states.shape
        view = layer[self._first : self._first + rows]
        if rows == 1:
            start = self._stop - tokens
            view[:, :, start : self._stop] = states
        else:
            places = self._starts[:, None] + torch.arange(tokens, device=layer.device)
            row_index = torch.arange(rows, device=layer.device)[:, None]
            view[row_index, :, places] = states.transpose(1, 2)
        return view[:, :, : self._stop]

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        shape = (self._slots, states.shape[1], self._length, states.shape[3])
        if states.device.type != "cpu":
            return torch.zeros(shape, dtype=states.dtype, device=states.device)
        # numpy's zeros are pages that the system hands out when they are first written; torch's
        # are written at once, and most slots never see their full length.
        size = int(np.prod(shape)) * states.element_size()
        return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(states.dtype).view(shape)
