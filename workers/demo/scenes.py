"""Scenes of coloured shapes: what they hold and how they are laid out.

Everything comes from a `random.Random`, so a seed names a scene for ever. Training draws its seeds
from `TRAIN_SEEDS` and evaluation from `EVAL_SEEDS`; the two ranges never meet, and the renderer
named by `HELD_OUT_RENDERER` is never used in training. Coordinates are pixels, y grows downwards.
This module knows nothing of pixels (`painting`), questions, tokens or models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

Rgb = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
Renderer = Literal["plain", "supersampled", "blurred", "raster"]

TRAIN_SEEDS = range(0, 1_000_000_000)
EVAL_SEEDS = range(1_000_000_000, 2_000_000_000)
HELD_OUT_RENDERER: Renderer = "raster"
KINDS = ("circle", "square", "triangle", "star", "cross")
MAX_SHAPES = 6
MIN_CONTRAST = 75.0

PALETTE: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (220, 20, 60), (200, 0, 0), (230, 57, 70), (214, 39, 40), (178, 34, 34)),
    "orange": ((255, 165, 0), (255, 140, 0), (255, 127, 14), (245, 130, 32)),
    "yellow": ((255, 255, 0), (255, 255, 0), (255, 221, 0), (250, 220, 40), (241, 206, 15)),
    "green": ((0, 128, 0), (0, 255, 0), (34, 139, 34), (50, 205, 50), (46, 190, 100), (0, 100, 0)),
    "blue": ((0, 0, 255), (30, 110, 255), (65, 105, 225), (31, 119, 180), (0, 0, 190)),
    "purple": ((128, 0, 128), (148, 0, 211), (138, 43, 226), (150, 80, 180), (106, 13, 173)),
    "pink": ((255, 192, 203), (255, 105, 180), (255, 130, 180), (240, 98, 146), (255, 182, 193)),
    "black": ((0, 0, 0), (0, 0, 0), (20, 20, 20), (35, 35, 35)),
}
COLOURS = tuple(PALETTE)
COMMON_SIZES = (
    (112, 112),
    (200, 200),
    (224, 224),
    (224, 224),
    (256, 256),
    (300, 200),
    (320, 240),
    (336, 336),
    (400, 300),
    (448, 448),
    (512, 512),
    (640, 480),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """One filled shape; `radius` is half its rough extent, `angle` is in radians."""

    kind: str
    colour: str
    rgb: Rgb
    x: float
    y: float
    radius: float
    angle: float = 0.0
    stretch: float = 1.0
    lean: float = 0.0

    def outline(self) -> list[Point]:
        """Return the polygon in pixels; a circle becomes 72 corners."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        wide, high = math.sqrt(self.stretch), 1 / math.sqrt(self.stretch)
        points = []
        for x, y in _unit_outline(self.kind, self.lean):
            x, y = x * wide * self.radius, y * high * self.radius
            points.append((self.x + x * cos - y * sin, self.y + x * sin + y * cos))
        return points

    def box(self) -> Box:
        """Return the exact left, top, right and bottom edges in pixels."""
        xs, ys = zip(*self.outline(), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def name(self) -> str:
        """The words for it, such as "red circle"."""
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, slots=True)
class Scene:
    """Shapes that do not overlap on a canvas of `width` by `height` pixels."""

    width: int
    height: int
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Style:
    """How a scene is painted: ground colours, edges, outline and damage."""

    renderer: Renderer = "supersampled"
    ground: Rgb = (255, 255, 255)
    ground_end: Rgb | None = None
    ground_angle: int = 0
    outline: Rgb | None = None
    outline_share: float = 0.0
    blur_share: float = 0.0
    noise: float = 0.0
    jpeg_quality: int | None = None


def _unit_outline(kind: str, lean: float) -> list[Point]:
    if kind == "circle":
        return [(math.cos(i * math.pi / 36), math.sin(i * math.pi / 36)) for i in range(72)]
    if kind == "square":
        return [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
    if kind == "triangle":
        return [(lean, -1.0), (1.0, 0.8), (-1.0, 0.8)]
    if kind == "star":
        inner = 0.46 + 0.1 * lean
        radii = [1.1 if i % 2 == 0 else 1.1 * inner for i in range(10)]
        turns = [i * math.pi / 5 - math.pi / 2 for i in range(10)]
        return [(r * math.cos(t), r * math.sin(t)) for r, t in zip(radii, turns, strict=True)]
    arm = 0.34 + 0.1 * lean
    near, far = arm, 1.0
    quarter = [(near, -far), (near, -near), (far, -near)]
    points: list[Point] = []
    for _ in range(4):
        points += quarter
        quarter = [(-y, x) for x, y in quarter]
    return points


def random_size(rng: Random, longest: int = 1000) -> tuple[int, int]:
    """Return a picture size between 112 and `longest` pixels, mostly small and near square."""
    if rng.random() < 0.4:
        width, height = rng.choice(COMMON_SIZES)
    else:
        width = int(112 * (longest / 112) ** (rng.random() ** 1.6))
        aspect = rng.choice((1.0, rng.uniform(0.75, 1.33), rng.uniform(0.55, 1.8)))
        height = int(width / aspect)
    scale = min(1.0, longest / max(width, height))
    return max(112, int(width * scale)), max(112, int(height * scale))


def random_scene(
    rng: Random, style: Style, count: int | None = None, size: tuple[int, int] | None = None
) -> Scene:
    """Lay out `count` shapes (1 to 6 when None) whose colours stand out from the style's ground."""
    width, height = size or random_size(rng)
    if count is None:
        count = rng.choices(range(MAX_SHAPES + 1), (2, 20, 22, 21, 16, 11, 8))[0]
    kinds, colours = _vocabulary(rng, style)
    boxes: list[Box] = []
    shapes: list[Shape] = []
    for x, y, radius in _places(rng, count, width, height):
        shape = _random_shape(rng, rng.choice(kinds), rng.choice(colours), style, (x, y), radius)
        box = shape.box()
        if _inside(box, width, height) and not any(_touches(box, other, radius) for other in boxes):
            boxes.append(box)
            shapes.append(shape)
    return Scene(width, height, tuple(shapes))


def _vocabulary(rng: Random, style: Style) -> tuple[Sequence[str], Sequence[str]]:
    kinds: Sequence[str] = KINDS
    colours: Sequence[str] = [c for c in COLOURS if _visible_tones(c, style)]
    if rng.random() < 0.35:
        kinds = rng.sample(KINDS, rng.randint(1, 2))
    if rng.random() < 0.35:
        colours = rng.sample(colours, min(len(colours), rng.randint(1, 2)))
    return kinds, colours


def _places(rng: Random, count: int, width: int, height: int) -> list[tuple[float, float, float]]:
    short, long = min(width, height), max(width, height)
    smallest = 0.068 * long
    roll = rng.random()
    if roll < 0.16 and count > 1:
        return _line_places(rng, count, width, height, roll < 0.08)
    largest = short * (0.42, 0.36, 0.3, 0.25, 0.22, 0.2)[max(0, min(count, 6) - 1)]
    even = rng.uniform(smallest, max(smallest, largest)) if rng.random() < 0.35 else None
    found: list[tuple[float, float, float]] = []
    for _ in range(count * 30):
        if len(found) == count:
            break
        radius = even or rng.uniform(smallest, max(smallest, largest))
        reach = radius * 1.12
        if 2 * reach > short:
            continue
        x, y = rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)
        if all(math.dist((x, y), (a, b)) > 1.25 * (radius + r) + 2 for a, b, r in found):
            found.append((x, y, radius))
    return found


def _line_places(
    rng: Random, count: int, width: int, height: int, across: bool
) -> list[tuple[float, float, float]]:
    run, other = (width, height) if across else (height, width)
    step = run / count
    radius = min(step * rng.uniform(0.3, 0.42), other * rng.uniform(0.2, 0.42))
    radius = max(radius, 0.068 * max(width, height))
    level = rng.choice((other / 2, rng.uniform(1.2 * radius, max(other - 1.2 * radius, radius))))
    spots = [(step * (i + 0.5), level) for i in range(count)]
    return [(a, b, radius) if across else (b, a, radius) for a, b in spots]


def _random_shape(
    rng: Random, kind: str, colour: str, style: Style, centre: Point, radius: float
) -> Shape:
    angle = rng.uniform(-math.pi, math.pi) if rng.random() < 0.3 else 0.0
    if angle == 0.0 and rng.random() < 0.2:
        angle = rng.uniform(-0.3, 0.3)
    stretch = rng.uniform(0.88, 1.14) if rng.random() < 0.25 else 1.0
    lean = rng.uniform(-1, 1) if rng.random() < 0.4 else 0.0
    if kind == "triangle":
        stretch = rng.uniform(0.75, 1.4) if rng.random() < 0.5 else 1.0
        lean = rng.choice((-1.0, 1.0, rng.uniform(-0.8, 0.8))) if rng.random() < 0.25 else 0.0
    rgb = _jitter(rng, rng.choice(_visible_tones(colour, style)))
    return Shape(kind, colour, rgb, *centre, radius, angle, stretch, lean)


def _visible_tones(colour: str, style: Style) -> list[Rgb]:
    grounds = [style.ground] if style.ground_end is None else [style.ground, style.ground_end]
    return [t for t in PALETTE[colour] if all(math.dist(t, g) > MIN_CONTRAST for g in grounds)]


def _jitter(rng: Random, rgb: Rgb) -> Rgb:
    if rng.random() < 0.5:
        return rgb
    red, green, blue = (max(0, min(255, v + rng.randint(-10, 10))) for v in rgb)
    return red, green, blue


def _inside(box: Box, width: int, height: int) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= width - 1 and box[3] <= height - 1


def _touches(box: Box, other: Box, radius: float) -> bool:
    gap = 0.12 * radius
    across = box[0] < other[2] + gap and other[0] < box[2] + gap
    return across and box[1] < other[3] + gap and other[1] < box[3] + gap
