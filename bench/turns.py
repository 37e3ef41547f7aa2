"""The second turn of a chat, beside a prompt of the same kind that the server has never seen.

A server that keeps what it computed for the first turn has little to do for the second. Nothing
else runs meanwhile; the two prompts differ from their first word on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.answers import medians
from bench.http import HttpTarget
from bench.prompts import SIZE, Ask, Messages, clean_picture, story

QUESTION_WORDS = 12


@dataclass(frozen=True, slots=True)
class Round:
    """Times to first token, and the prompts' tokens as the server counts them."""

    warm_ms: float
    cold_ms: float
    warm_prompt_tokens: float
    cold_prompt_tokens: float

    @property
    def ratio(self) -> float:
        """What the second turn takes of the time of the cold prompt."""
        return self.warm_ms / self.cold_ms

    def as_json(self) -> dict[str, object]:
        """Return the figures with their ratio."""
        return asdict(self) | {"ratio": self.ratio}


class Turns:
    """The scenario, for any number of targets and rounds."""

    head = (
        "target                second turn (ms)   cold (ms)   ratio"
        "   tokens of the second turn / cold"
    )

    def __init__(self, pictures: bool) -> None:
        """Have chats about text, or about a picture in their first turn."""
        self._pictures = pictures

    def run(self, target: HttpTarget, seed: str, words: int) -> Round:
        """Run one round with a history of so many words.

        Raises:
            RequestFailed: something was not answered.
        """
        begun = self._first_turn(f"{seed} warm", words)
        said = target.reply(begun).text
        warm = target.stream(_second_turn(begun, said, f"{seed} warm")).require()
        unseen = self._first_turn(f"{seed} cold", words)
        backwards = " ".join(reversed(said.split()))  # as long, and yet another text
        cold = target.stream(_second_turn(unseen, backwards, f"{seed} cold")).require()
        return Round(
            warm_ms=1000 * warm.first_token_s,
            cold_ms=1000 * cold.first_token_s,
            warm_prompt_tokens=warm.prompt_tokens,
            cold_prompt_tokens=cold.prompt_tokens,
        )

    def median(self, rounds: Sequence[Round]) -> Round:
        """Return the median of each figure; the ratio follows from those."""
        return medians(rounds)

    def rows(self, name: str, found: Round) -> list[str]:
        """Write one target's line of the table."""
        return [
            f"{name:18s} {found.warm_ms:19.1f} {found.cold_ms:11.1f} {found.ratio:7.2f}"
            f" {found.warm_prompt_tokens:27.0f} / {found.cold_prompt_tokens:.0f}"
        ]

    def _first_turn(self, seed: str, words: int) -> Messages:
        png = clean_picture(f"{seed} picture", SIZE) if self._pictures else None
        return Ask(story(f"{seed} history", words), png).messages()


def _second_turn(begun: Messages, said: str, seed: str) -> Messages:
    question = story(f"{seed} question", QUESTION_WORDS)
    return [
        *begun,
        {"role": "assistant", "content": said},
        {"role": "user", "content": question},
    ]
