"""What the draws of one answer depend on besides its logits: parameters, ids, seed and position.

Keeps the ids that penalties look at as growing arrays, so that a step costs one update and one
copy, however long the answer. Knows no tensors; `sampling` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from broker.messages import SamplingParams

_NO_IDS = np.empty(0, dtype=np.int64)


class Row:
    """What the draws of one answer depend on besides its logits; made once per answer."""

    __slots__ = ("_counts", "_output_ids", "_stop_ids", "params")

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Iterable[int] = (),
        output_ids: Sequence[int] = (),
        stop_ids: AbstractSet[int] = frozenset(),
    ) -> None:
        """Keep `output_ids` itself: it grows with the answer.

        Args:
            params: what was asked for.
            prompt_ids: what the repetition penalty looks at besides the answer.
            output_ids: the answer so far.
            stop_ids: tokens that end the answer, which `min_tokens` holds off.
        """
        self.params = params
        self._output_ids = output_ids
        self._stop_ids = np.array(sorted(stop_ids), dtype=np.int64)
        self._counts: Counts | None = None
        if params.repetition_penalty != 1.0:
            self._counts = Counts(prompt_ids)
        elif params.presence_penalty or params.frequency_penalty:
            self._counts = Counts(())

    @property
    def is_hot(self) -> bool:
        """Whether the token is drawn, rather than the most likely one taken."""
        return self.params.temperature > 0

    @property
    def point(self) -> float:
        """Where in [0, 1) the draw of this position falls."""
        return uniform(self.params.seed, len(self._output_ids))

    @property
    def bias(self) -> dict[int, float]:
        """What is added to the logits of single ids."""
        return self.params.logit_bias

    @property
    def forbidden(self) -> NDArray[np.int64]:
        """Ids that must not be drawn at this position."""
        return self._stop_ids if len(self._output_ids) < self.params.min_tokens else _NO_IDS

    @property
    def counts(self) -> Counts | None:
        """Ids that penalties apply to, None when there is no penalty."""
        if self._counts is not None:
            self._counts.follow(self._output_ids)
        return self._counts


class Counts:
    """The distinct ids of an answer and how often each was generated; a prompt's ids count 0."""

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        distinct = dict.fromkeys(prompt_ids)
        self._places = {token_id: place for place, token_id in enumerate(distinct)}
        self._ids = np.fromiter(distinct, dtype=np.int64)
        self._times = np.zeros(len(distinct), dtype=np.float32)
        self._followed = 0

    @property
    def ids(self) -> NDArray[np.int64]:
        """Each id once."""
        return self._ids[: len(self._places)]

    @property
    def times(self) -> NDArray[np.float32]:
        """How often each of `ids` was generated."""
        return self._times[: len(self._places)]

    def follow(self, output_ids: Sequence[int]) -> None:
        """Count what is new since the last call."""
        while self._followed < len(output_ids):
            place = self._place(output_ids[self._followed])
            self._times[place] += 1
            self._followed += 1

    def _place(self, token_id: int) -> int:
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids):
            more = max(64, place)
            self._ids = np.concatenate((self._ids, np.zeros(more, dtype=np.int64)))
            self._times = np.concatenate((self._times, np.zeros(more, dtype=np.float32)))
        self._ids[place] = token_id
        return place


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) that is a fixed function of seed and position."""
    key = seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
