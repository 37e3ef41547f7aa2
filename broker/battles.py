"""How often each model won, lost or tied against each other, from the stream of votes.

A tally is read on from where it stopped, so that a page that shows it live costs little. What it
comes to is `broker.strengths`' to know.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import redis

from broker import keys, pages
from broker.exports import SIDES, left_out


@dataclass(slots=True)
class Duel:
    """Votes on a pair of models; `bothbad` are among the ties."""

    first_won: int = 0
    second_won: int = 0
    ties: int = 0
    bothbad: int = 0

    @property
    def votes(self) -> int:
        """All of them."""
        return self.first_won + self.second_won + self.ties


Duels = dict[tuple[str, str], Duel]
"""By the models' names, the first in alphabetical order first."""


class Tally:
    """The votes read so far; may be used from many threads."""

    def __init__(self) -> None:
        self._duels: Duels = {}
        self._read_to = pages.FIRST
        self._lock = threading.Lock()

    def read(self, client: redis.Redis) -> Duels:
        """Read the votes that came since, and return what all of them come to.

        A model's answers compared with each other say nothing and are passed over.
        """
        with self._lock:
            for entry in pages.walk(client, keys.FEEDBACK_LOG, after=self._read_to):
                self._count(entry)
                self._read_to = entry.id
            return {
                models: Duel(duel.first_won, duel.second_won, duel.ties, duel.bothbad)
                for models, duel in self._duels.items()
            }

    def _count(self, entry: pages.Entry) -> None:
        kind = entry.fields.get("vote")
        if kind not in (*SIDES, "tie", "bothbad"):
            return
        try:
            left, right = (entry.fields[f"{side}_model"] for side in SIDES)
        except KeyError as error:
            left_out(entry, error)
            return
        if left == right:
            return
        duel = self._duels.setdefault((min(left, right), max(left, right)), Duel())
        if kind in SIDES:
            winner = left if kind == "left" else right
            duel.first_won += winner == min(left, right)
            duel.second_won += winner != min(left, right)
        else:
            duel.ties += 1
            duel.bothbad += kind == "bothbad"
