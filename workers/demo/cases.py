"""Evaluation cases: chats about pictures from seeds that training never uses."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from PIL import Image

from workers.demo import pairs, questions, smalltalk
from workers.demo.clutter import random_clutter
from workers.demo.painting import draw, random_style
from workers.demo.questions import Turn
from workers.demo.scenes import (
    EVAL_SEEDS,
    HELD_OUT_RENDERER,
    Scene,
    random_scene,
    random_size,
)


@dataclass(frozen=True, slots=True)
class Message:
    """What the user sends in one turn: pictures, then a question with its expected answer."""

    pictures: tuple[Image.Image, ...]
    turn: Turn


@dataclass(frozen=True, slots=True)
class Case:
    """A whole chat; `group` names the part of the report to which it belongs."""

    group: str
    messages: tuple[Message, ...]


def _scene(rng: Random, held_out: bool = False) -> tuple[Scene, Image.Image]:
    style = random_style(rng, (HELD_OUT_RENDERER,) if held_out else ())
    scene = random_scene(rng, style, size=random_size(rng, 480 if held_out else 1000))
    return scene, draw(scene, style)


def _size_group(picture: Image.Image) -> str:
    side = max(picture.size)
    return next(f"up to {top} pixels" for top in (200, 400, 1000) if side <= top)


def one_picture(rng: Random) -> list[Case]:
    """Ask two separate questions about one scene."""
    scene, picture = _scene(rng)
    asked = [questions.about_scene(rng, scene) for _ in range(2)]
    group = _size_group(picture)
    return [Case(group, (Message((picture,), turn),)) for turn in asked]


def new_renderer(rng: Random) -> list[Case]:
    """Ask two questions about a scene drawn by the renderer that training never uses."""
    scene, picture = _scene(rng, held_out=True)
    asked = [questions.about_scene(rng, scene) for _ in range(2)]
    return [Case("held-out renderer", (Message((picture,), turn),)) for turn in asked]


def many_turns(rng: Random) -> list[Case]:
    """Ask up to three questions in one chat, each leaning on the one before where it can."""
    scene, picture = _scene(rng)
    messages = [Message((picture,), questions.about_scene(rng, scene))]
    for _ in range(2):
        after = questions.follow_up(rng, scene, messages[-1].turn)
        messages.append(Message((), after or questions.about_scene(rng, scene)))
    return [Case("several turns", tuple(messages))]


def two_pictures(rng: Random) -> list[Case]:
    """Send two pictures in one message."""
    (first, one), (second, two) = _scene(rng), _scene(rng)
    turn = pairs.about_two(rng, first, second)
    return [Case("two images, one message", (Message((one, two), turn),))]


def later_picture(rng: Random) -> list[Case]:
    """Send a second picture in a later turn."""
    (first, one), (second, two) = _scene(rng), _scene(rng)
    opening = Message((one,), questions.about_scene(rng, first))
    if rng.random() < 0.6:
        turn = pairs.about_newest(rng, second)
    else:
        turn = pairs.about_two(rng, first, second)
    return [Case("two images, later turn", (opening, Message((two,), turn)))]


def no_picture(rng: Random) -> list[Case]:
    """Chat without a picture."""
    return [Case("text only", (Message((), smalltalk.text_only(rng)),))]


def beside_the_point(rng: Random) -> list[Case]:
    """Ask a picture of shapes for something unrelated."""
    _, picture = _scene(rng)
    return [Case("unrelated request", (Message((picture,), smalltalk.aside(rng)),))]


def strange(rng: Random) -> list[Case]:
    """Ask about a picture without shapes, of a kind known from training."""
    picture = random_clutter(rng, random_size(rng, 640))
    turn = smalltalk.about_clutter(rng)
    return [Case("strange pictures, known kinds", (Message((picture,), turn),))]


def stranger(rng: Random) -> list[Case]:
    """Ask about a picture without shapes, of a kind kept from training."""
    picture = random_clutter(rng, random_size(rng, 640), held_out=True)
    turn = smalltalk.about_clutter(rng, held_out=True)
    return [Case("strange pictures, new kinds", (Message((picture,), turn),))]


Maker = Callable[[Random], list[Case]]
SHARES: tuple[tuple[Maker, float], ...] = (
    (one_picture, 1.0),
    (new_renderer, 0.15),
    (many_turns, 0.15),
    (two_pictures, 0.15),
    (later_picture, 0.1),
    (no_picture, 0.1),
    (beside_the_point, 0.06),
    (strange, 0.1),
    (stranger, 0.1),
)


def make_cases(scenes: int, seed: int) -> Iterator[Case]:
    """Make cases for `scenes` single pictures and, in proportion, for everything else."""
    for index, (maker, share) in enumerate(SHARES):
        for number in range(max(1, round(scenes * share))):
            offset = (seed * len(SHARES) + index) * 100_000 + number
            yield from maker(Random(EVAL_SEEDS[offset]))
