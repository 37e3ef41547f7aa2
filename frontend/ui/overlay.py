"""Draws the boxes of an answer on their picture, with labels and a legend, as PNG.

Lines are dark with a white edge, so they stand out from any background: each colour has a contrast
of 9 to white at least, so at least 3 to what is behind it, or else its edge has.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from broker.errors import InvalidImage
from broker.messages import ImageProcessMode
from frontend.pictures import FORMATS
from frontend.ui.boxes import Box, Region

Rgb = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Frame = tuple[float, float, float, float]

WHITE: Final[Rgb] = (255, 255, 255)
COLOURS: Final[tuple[Rgb, ...]] = (
    (139, 0, 0),
    (0, 0, 160),
    (0, 80, 0),
    (110, 0, 110),
    (0, 70, 90),
    (95, 50, 0),
    (60, 60, 60),
    (130, 0, 70),
)

MAX_SIDE: Final = 2048
"""Larger pictures are drawn smaller: a PNG of 25 million pixels takes seconds."""

_FONTS: Final = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf")
_NO_GLYPH: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Category:
    """Regions of one name: their colour, and the number of boxes.

    `label` is what stands at them: the name, or a number where no font here can write it.
    """

    name: str
    label: str
    colour: Rgb
    count: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture with boxes and, below it, the legend; the legend once more as data."""

    png: bytes
    legend: tuple[Category, ...]


def draw(data: bytes, regions: Iterable[Region], mode: ImageProcessMode | None = None) -> Drawing:
    """Draw regions on the picture that they lie on.

    Args:
        data: the picture as it was uploaded, of at most `frontend.pictures`' limits.
        regions: what to draw; those of the same name, but for capitals, have one colour.
        mode: how the picture was shaped for the model; coordinates are those of that shape.

    Raises:
        InvalidImage: the bytes are no picture any more.
    """
    image = _upright(data)
    letters = max(12, min(image.size) // 25)
    named: dict[str, list[Region]] = {}
    for region in regions:
        named.setdefault(region.name.casefold(), []).append(region)
    legend = tuple(
        Category(
            found[0].name,
            _writable(found[0].name, letters) or str(place + 1),
            COLOURS[place % len(COLOURS)],
            sum(len(region.boxes) for region in found),
        )
        for place, found in enumerate(named.values())
    )
    frame = _frame(image.size, mode)
    canvas = ImageDraw.Draw(image)
    corners = [
        (_corners(box, frame, image.size), category)
        for category, found in zip(legend, named.values(), strict=True)
        for region in found
        for box in region.boxes
    ]
    for rectangle, category in corners:
        _rectangle(canvas, rectangle, category.colour, line_width(image.size))
    for rectangle, category in corners:
        _label(canvas, rectangle, category, letters, image.size)
    out = io.BytesIO()
    _with_legend(image, legend, letters).save(out, "PNG", compress_level=1)
    return Drawing(out.getvalue(), legend)


def line_width(size: tuple[int, int]) -> int:
    """Pixels of the dark part of a line on a picture of this size."""
    return round(max(1, min(size) / 200))


def _upright(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            opened.draft(None, (MAX_SIDE, MAX_SIDE))  # saves decoding JPEGs at full size
            image: Image.Image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to white
                image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            image.thumbnail((MAX_SIDE, MAX_SIDE))
            if not image.has_transparency_data:
                return image.convert("RGB")
            layer = image.convert("RGBA")
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever damage leads to
        raise InvalidImage("The picture is damaged; open it and save it again.") from error
    canvas = Image.new("RGB", layer.size, WHITE)
    canvas.paste(layer, mask=layer.getchannel("A"))
    return canvas


def _frame(size: tuple[int, int], mode: ImageProcessMode | None) -> Frame:
    """Left, top, width and height, in pixels of the picture, of what the model saw."""
    side = {"Crop": min(size), "Pad": max(size)}.get(mode or "Default")
    if side is None:
        return 0, 0, *size
    return (size[0] - side) / 2, (size[1] - side) / 2, side, side


def _corners(box: Box, frame: Frame, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last column and row of a box within the picture."""
    left, top, width, height = frame
    xs = (round(left + x * width / 1000) for x in (box.x1, box.x2))
    ys = (round(top + y * height / 1000) for y in (box.y1, box.y2))
    x1, x2 = (min(max(x, 0), size[0] - 1) for x in xs)
    y1, y2 = (min(max(y, 0), size[1] - 1) for y in ys)
    return x1, y1, x2, y2


def _rectangle(
    canvas: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], colour: Rgb, width: int
) -> None:
    """A dark line that lies within the corners, with a white edge on its inner side and outer."""
    x1, y1, x2, y2 = corners
    edge = max(1, width // 2)
    for grow, line, ink in ((edge, width + 2 * edge, WHITE), (0, width, colour)):
        outer = (x1 - grow, y1 - grow, x2 + grow, y2 + grow)
        canvas.rectangle(outer, outline=ink, width=line)


def _label(
    canvas: ImageDraw.ImageDraw,
    corners: tuple[int, int, int, int],
    category: Category,
    letters: int,
    size: tuple[int, int],
) -> None:
    """The label above its box if there is room, else within; none on too small a picture."""
    if not category.name:
        return
    font = _font(letters, category.label)
    text, width, height = _fitted(category.label, font, size[0])
    if not text or height > size[1]:
        return
    x = min(max(corners[0], 0), size[0] - width)
    y = corners[1] - height
    y = y if y >= 0 else min(corners[1], size[1] - height)
    _plate(canvas, (x, y), (width, height), category.colour)
    canvas.text((x + width / 2, y + height / 2), text, fill=WHITE, font=font, anchor="mm")


def _plate(
    canvas: ImageDraw.ImageDraw, at: tuple[float, float], size: tuple[int, int], colour: Rgb
) -> None:
    x, y = at
    canvas.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), fill=colour, outline=WHITE)


def _fitted(text: str, font: Font, room: int) -> tuple[str, int, int]:
    """A text cut to fit, and the size of its plate; no text if not even one letter fits."""
    _, top, _, bottom = font.getbbox("Ágj")
    height = int(bottom - top) + 6
    shown = text
    while shown and (width := int(font.getlength(shown)) + 8) > room:
        text = text[:-1]
        shown = text and text + "…"
    return (shown, width, height) if shown else ("", 0, height)


def _with_legend(image: Image.Image, legend: tuple[Category, ...], letters: int) -> Image.Image:
    """The picture with a line below it for each category that has a name."""
    named = [category for category in legend if category.name]
    row = letters + 10
    room = image.width - row - 8
    if not named or room < letters:
        return image
    whole = Image.new("RGB", (image.width, image.height + row * len(named) + 4), WHITE)
    whole.paste(image)
    canvas = ImageDraw.Draw(whole)
    for place, category in enumerate(named):
        y = image.height + 2 + place * row
        count = f" ({category.count})" if category.count > 1 else ""
        font = _font(letters, category.label)
        text, _, _ = _fitted(category.label + count, font, room)
        _plate(canvas, (4, y + 2), (row - 4, row - 4), category.colour)
        canvas.text((8 + row, y + row / 2), text, fill=(0, 0, 0), font=font, anchor="lm")
    return whole


def _writable(text: str, letters: int) -> str:
    """The text if some font here can write it, else nothing."""
    return text if _covers(_font(letters, text), text) else ""


@lru_cache(maxsize=64)
def _font(size: int, text: str) -> Font:
    """The first font of this system that has all letters, or else the one that Pillow brings."""
    for name in _FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _covers(font, text):
            return font
    return ImageFont.load_default(size)


def _covers(font: Font, text: str) -> bool:
    missing = bytes(font.getmask(_NO_GLYPH))
    return all(bytes(font.getmask(letter)) != missing for letter in set(text) if letter != " ")
