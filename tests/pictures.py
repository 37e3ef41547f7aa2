"""Pictures that tests draw themselves, with plain Pillow."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw


def encode(picture: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def scene(*shapes: tuple[str, str, tuple[int, int]], size: int = 224) -> bytes:
    """A white picture with (kind, colour, centre) shapes, as PNG."""
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    for kind, colour, (x, y) in shapes:
        r = size // 8
        if kind == "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        elif kind == "square":
            draw.rectangle((x - r, y - r, x + r, y + r), fill=colour)
        else:
            draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    return encode(picture)
