"""Where the tokens of one forward pass belong: a row of the cache and a position for each.

A pass is one flat list of tokens, in any mixture: the newest token of many answers, and pieces of
prompts beside them. The model sees a single sequence; what belongs together is known here alone, to
the cache that writes keys and values, and to the attention that reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import torch

_CURRENT: ContextVar[Plan] = ContextVar("plan")


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens that can attend in one call: `tokens` of each of `rows` neighbouring rows.

    Either several rows have one token each, or one row has several tokens in order. `first` is the
    place of the first token in the pass, `slot` the first row, `stop` the length of the longest.
    """

    first: int
    slot: int
    rows: int
    tokens: int
    stop: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows and positions `[tokens]` of a pass; `stop` is the length of its longest row after it.

    `pictures` has the first position and the end of the picture that each token belongs to,
    `[2, tokens]`, for models whose picture tokens see all of their picture; an empty range for
    text. `additions` `[1, tokens, levels * hidden]` are what pictures add behind the first layers.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    stop: int
    known_blocks: tuple[Block, ...] = ()
    pictures: torch.Tensor | None = None
    additions: torch.Tensor | None = None
    _copies: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What covers the pass where attention is computed block by block."""
        return self.known_blocks or _blocks(self.slots.tolist(), self.positions.tolist())

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and positions on the device of a layer, which need not be the first layer's."""
        if device == self.slots.device:
            return self.slots, self.positions
        if device not in self._copies:
            self._copies[device] = self.slots.to(device), self.positions.to(device)
        return self._copies[device]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Make it the plan of passes within the context, in this thread."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)


def current() -> Plan:
    """Return the plan in use.

    Raises:
        LookupError: there is none.
    """
    return _CURRENT.get()


def make_plan(
    slots: Sequence[int],
    positions: Sequence[int],
    device: torch.device,
    *,
    pictures: torch.Tensor | None = None,
    additions: torch.Tensor | None = None,
) -> Plan:
    """Plan a pass over tokens whose rows and positions are given, token by token."""
    stop = max(positions) + 1
    blocks = _blocks(slots, positions)
    if pictures is not None:  # whose tokens see some that come after them
        blocks = tuple(replace(block, stop=stop) for block in blocks)
    return Plan(
        torch.tensor(slots, device=device),
        torch.tensor(positions, device=device),
        stop,
        blocks,
        pictures,
        additions,
    )


def _blocks(slots: Sequence[int], positions: Sequence[int]) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for place, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        last = blocks[-1] if blocks else None
        stop = position + 1
        if last is not None and last.rows == 1 and slot == last.slot and stop == last.stop + 1:
            blocks[-1] = Block(last.first, slot, 1, last.tokens + 1, stop)
        elif last is not None and last.tokens == 1 and slot == last.slot + last.rows:
            stop = max(stop, last.stop)
            blocks[-1] = Block(last.first, last.slot, last.rows + 1, 1, stop)
        else:
            blocks.append(Block(place, slot, 1, 1, stop))
    return tuple(blocks)
