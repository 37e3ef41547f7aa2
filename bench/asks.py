"""What a soak asks, and the answer to it that nothing disturbed.

Text and pictures; some clients break their connection and come back, some stop, some leave.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

from bench.fleet import DEMO, ECHO
from bench.prompts import SIZE, clean_picture
from tests.frontend.clients import body, data_uri, image_message, post

Kind = Literal["text", "picture", "returning", "stopped", "leaving"]

SHARES: dict[Kind, float] = {
    "text": 0.35, "picture": 0.2, "returning": 0.2, "stopped": 0.125, "leaving": 0.125,
}  # fmt: skip

GRACE = "grace:60"
"""A client that means to come back says so."""

LONG = 1000
"""Words of an answer that is not meant to come to its end: 50 s."""

QUESTIONS = (
    "How many shapes are there?",
    "Which shapes are in the picture?",
    "Where is the circle?",
    "Is there a red square?",
)
PICTURES = 6


@dataclass(frozen=True)
class Ask:
    """One request and what is to become of it; cuts and stop are numbers of words."""

    name: str
    kind: Kind
    body: dict[str, Any]
    expected: str
    cuts: tuple[int, ...] = ()
    stop_at: int = 0


class Asks:
    """Draws requests; equal seeds draw the same."""

    def __init__(self, seed: str, address: str) -> None:
        """Ask for the undisturbed answers about each picture.

        Raises:
            AssertionError: a question about a picture is not answered.
        """
        self._dice = random.Random(f"{seed} asks")
        self._count = 0
        self._pictures = [
            (question, told(address, question))
            for question in map(self._question, range(PICTURES * len(QUESTIONS)))
        ]

    def _question(self, place: int) -> dict[str, Any]:
        picture = data_uri(clean_picture(f"picture {place % PICTURES}", SIZE))
        messages = image_message(picture, text=QUESTIONS[place // PICTURES])
        fields = {"messages": messages, "temperature": 0, "on_disconnect": GRACE}
        return body(model=DEMO, stream=True) | fields

    def draw(self) -> Ask:
        """Draw the next request."""
        self._count += 1
        name, dice = f"{self._count}", self._dice
        (kind,) = dice.choices(list(SHARES), list(SHARES.values()))
        if kind == "picture":
            question, answer = dice.choice(self._pictures)
            return Ask(name, kind, question, answer)
        count = LONG if kind in ("stopped", "leaving") else dice.randrange(20, 100)
        words = " ".join(f"{name}.{place}" for place in range(count))
        rule = "cancel" if kind == "leaving" else GRACE
        wanted = body(words, ECHO, stream=True, on_disconnect=rule)
        if kind == "returning":
            return Ask(name, kind, wanted, words, cuts=cuts(dice, count))
        return Ask(name, kind, wanted, words, stop_at=dice.randrange(5, 100) * (count == LONG))


def cuts(dice: random.Random, count: int) -> tuple[int, ...]:
    """Draw up to four places of an answer of so many words."""
    return tuple(sorted(dice.sample(range(1, count - 5), dice.randrange(1, 5))))


def told(address: str, question: dict[str, Any]) -> str:
    """Return the whole answer to a question."""
    reply = post(address, question | {"stream": False})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])
