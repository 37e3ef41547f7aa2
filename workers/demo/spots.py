"""Where in the picture the words of a question and of its answer point, read from the scene.

Training has the language model hold these places at these words (`objective`): to compare two
shapes it must first know where they are. Positions in texts count characters.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from workers.demo.questions import Turn
from workers.demo.scenes import COLOURS, KINDS, Box, Scene, Shape
from workers.demo.wording import NUMBERS, plural

Spot = tuple[int, Box]
MENTION = re.compile(rf"the (?:({'|'.join(COLOURS)}) )?({'|'.join(KINDS)}|shape|one|object)\b")
ITEM = re.compile(
    rf"\b({'|'.join(('an?', *NUMBERS[2:]))}) ({'|'.join(COLOURS)}) ({'|'.join(map(plural, KINDS))}"
    rf"|{'|'.join(KINDS)})\b"
)


@dataclass(frozen=True, slots=True)
class Spots:
    """Boxes as shares of the picture: by where a mention ends, and by where an item begins."""

    question: tuple[Spot, ...]
    answer: tuple[Spot, ...]


def spots(turn: Turn, scene: Scene) -> Spots:
    """Find the places that the question mentions and that the answer is about."""
    answer = tuple(_items(turn, scene))
    if not answer and turn.subject and not turn.kind.startswith("relation yes"):
        answer = ((0, _place(scene, turn.subject)),)
    return Spots(tuple(_mentions(turn, scene)), answer)


def _place(scene: Scene, shape: Shape) -> Box:
    left, top, right, bottom = shape.box()
    return left / scene.width, top / scene.height, right / scene.width, bottom / scene.height


def _mentions(turn: Turn, scene: Scene) -> Iterator[Spot]:
    for match in MENTION.finditer(turn.question.lower()):
        colour, kind = match.groups()
        meant = [
            shape
            for shape in scene.shapes
            if colour in (None, shape.colour) and (kind not in KINDS or kind == shape.kind)
        ]
        if len(meant) == 1:
            yield match.end(), _place(scene, meant[0])


def _items(turn: Turn, scene: Scene) -> Iterator[Spot]:
    if turn.subject is not None:
        return
    for match in ITEM.finditer(turn.answer):
        count, colour, kind = match.groups()
        size = NUMBERS.index(count) if count in NUMBERS else 1
        meant = [s for s in scene.shapes if s.colour == colour and kind in (s.kind, plural(s.kind))]
        if len(meant) == size:
            yield match.start(), _place(scene, min(meant, key=lambda shape: shape.x))
