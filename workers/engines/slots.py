"""Who sits in which row of the cache, and what the rows still hold of those who have left.

A sequence that begins like another one, running or gone, need not compute that beginning again: it
takes the row over, or gets a copy. Knows ids and lengths; touches no keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from workers.sequence import Sequence

Keys = NDArray[np.int64]
"""What was computed at each position: a token id, or a negative number that stands for a picture
and a place in it."""

_WORTH_SHARING = 8
"""Tokens; to prefill fewer costs no more than to copy them."""
_NOTHING: Keys = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Seat:
    """A row for a sequence, whose first `shared` positions are those of row `source`.

    `dropped` are rows whose memory is to be given back first, which may be the row itself.
    """

    slot: int
    source: int
    shared: int
    dropped: tuple[int, ...]


@dataclass(slots=True)
class _Row:
    keys: Keys = field(default_factory=lambda: _NOTHING)
    owner: Sequence | None = None
    tokens: int = 0
    """Positions that its memory is taken for, or promised to its owner."""
    left: int = 0

    @property
    def length(self) -> int:
        """Positions that hold what `keys` says."""
        return len(self.keys) if self.owner is None else min(self.owner.cached, len(self.keys))


class Slots:
    """The rows of a cache, and the tokens that there is memory for.

    The row least recently left is the first to be given away.
    """

    def __init__(self, slots: int, tokens: int) -> None:
        """Make `slots` rows that hold `tokens` positions together at most."""
        self._rows = [_Row() for _ in range(slots)]
        self._tokens = tokens
        self._clock = count(1)

    def take(self, sequence: Sequence, keys: Keys) -> Seat | None:
        """Seat a sequence that is about to compute `keys`; None if there is no room for it yet.

        Room is promised for its whole answer. At least its last position is left to be computed.
        """
        needed = len(sequence.prompt_ids) + sequence.max_tokens
        free = [slot for slot, row in enumerate(self._rows) if row.owner is None]
        promised = sum(row.tokens for row in self._rows if row.owner is not None)
        if not free or promised + needed > self._tokens:
            return None
        shared = [_common(row.keys[: row.length], keys[:-1]) for row in self._rows]
        source = max(range(len(shared)), key=shared.__getitem__)
        tokens = shared[source] if shared[source] >= _WORTH_SHARING else 0
        slot = min(free, key=lambda each: self._rows[each].left)
        if tokens and source in free and 2 * tokens >= self._rows[source].length:
            slot = source  # little or nothing of what it holds is lost
        dropped = self._drop(slot, needed, source if tokens else None)
        if source in dropped:
            tokens = 0
        row = self._rows[slot]
        row.keys, row.owner, row.tokens = keys, sequence, max(row.tokens, needed)
        return Seat(slot, source, tokens, dropped)

    def leave(self, slot: int, keys: Keys) -> None:
        """Free a row that goes on holding `keys`; empty if they are worth nothing."""
        row = self._rows[slot]
        row.keys, row.owner, row.left = keys, None, next(self._clock)

    def _drop(self, slot: int, needed: int, last: int | None) -> tuple[int, ...]:
        """Let go of what rows hold until `needed` positions in `slot` fit; of one of them last."""
        surplus = sum(row.tokens for row in self._rows) - self._tokens
        surplus += max(0, needed - self._rows[slot].tokens)
        dropped = []
        free = (each for each, row in enumerate(self._rows) if row.owner is None)
        for each in sorted(free, key=lambda x: (x == last, x != slot, self._rows[x].left)):
            gain = self._rows[each].tokens - (needed if each == slot else 0)
            if surplus > 0 and gain > 0:
                surplus -= gain
                self._rows[each] = _Row()
                dropped.append(each)
        return tuple(dropped)


def _common(held: Keys, wanted: Keys) -> int:
    """Length of the common beginning."""
    length = min(len(held), len(wanted))
    differs = held[:length] != wanted[:length]
    return int(differs.argmax()) if differs.any() else length
