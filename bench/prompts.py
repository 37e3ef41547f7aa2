"""What a benchmark asks: seeded, all different, and the same for every target.

Questions differ from their first words on, and so do their pictures, so that neither a cache of
prompt prefixes nor one of picture features flatters anyone. Knows nothing of targets.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from random import Random

from workers.demo.painting import draw, random_style
from workers.demo.scenes import Style, random_scene

NAMES = ("Ada", "Boris", "Chen", "Dara", "Emil", "Farah", "Goran", "Hana", "Ivo", "Jun", "Kofi")
TRADES = ("baker", "pilot", "weaver", "diver", "miner", "potter", "ranger", "sailor", "teacher")
PLACES = ("harbour", "desert", "valley", "forest", "island", "market", "castle", "station", "mill")
THINGS = ("lantern", "compass", "letter", "violin", "ladder", "kettle", "mirror", "barrel", "coat")
DEEDS = ("carried", "found", "painted", "lost", "repaired", "borrowed", "hid", "sold", "counted")
SIZE = (224, 224)
LARGE = (1792, 1344)
"""Pixels that InternVL's tiling cuts into four by three tiles, whether of 448 or of 112."""

Messages = list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question, about the PNG picture if there is one."""

    text: str
    png: bytes | None = None

    def messages(self) -> Messages:
        """Write the question in the words of OpenAI's protocol, the picture as a data URI."""
        if self.png is None:
            return [{"role": "user", "content": self.text}]
        url = "data:image/png;base64," + base64.b64encode(self.png).decode()
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": self.text},
        ]
        return [{"role": "user", "content": parts}]


def make_asks(seed: str, count: int, words: int, pictures: bool) -> list[Ask]:
    """Return `count` questions of about so many words; equal arguments, equal questions."""
    return [_ask(Random(f"{seed} {place}"), words, pictures) for place in range(count)]


def story(seed: str, words: int) -> str:
    """Return so many words that begin with a number, so that those of two seeds share no start.

    A longer story of the same seed goes on where a shorter one ends.
    """
    rng = Random(seed)
    told = [f"{rng.randrange(10**7, 10**8)}."]
    while len(told) < words:
        told += _sentence(rng).split()
    return " ".join(told[:words])


def clean_picture(seed: str, size: tuple[int, int]) -> bytes:
    """Return a PNG of shapes without noise, which stays small however many pixels it has."""
    rng = Random(seed)
    style = replace(random_style(rng, ("plain",)), noise=0.0, jpeg_quality=None)
    return _png(rng, style, size)


def _ask(rng: Random, words: int, pictures: bool) -> Ask:
    sentences = [_sentence(rng) for _ in range(max(1, words // 12))]
    if pictures:
        wish = "Describe every shape of the picture at length, and how they lie to each other."
        return Ask(" ".join([*sentences[1:], wish]), _picture(rng))
    return Ask(" ".join([*sentences, "Go on with this story for several pages."]))


def _sentence(rng: Random) -> str:
    names = rng.sample(NAMES, 2)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    year, trade = rng.randrange(1000, 2000), rng.choice(TRADES)
    return (
        f"{names[0]} the {trade} {rng.choice(DEEDS)} {names[1]}'s {thing} in {year} at the {place}."
    )


def _picture(rng: Random) -> bytes:
    return _png(rng, random_style(rng), SIZE)


def _png(rng: Random, style: Style, size: tuple[int, int]) -> bytes:
    scene = random_scene(rng, style, count=rng.randint(2, 4), size=size)
    file = io.BytesIO()
    draw(scene, style).save(file, "PNG")
    return file.getvalue()
