"""Checks uploaded bytes before they are stored: a picture of an allowed format, within limits.

Size is read from the header before anything is decoded; then the picture is decoded once, so that
a truncated one is refused here and not on a GPU. The bytes themselves are never changed.
"""

from __future__ import annotations

import io

# Named here so that Pillow never loads its other forty openers in search of one that fits.
from PIL import GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from broker.errors import InvalidImage, RequestTooLarge
from broker.images import MAX_RATIO, MAX_SIDE

_OPENERS = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
)
FORMATS = tuple(str(opener.format) for opener in _OPENERS)
_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"GIF8", "image/gif"))


def kind_of(data: bytes) -> str:
    """MIME type of the bytes of a picture that was accepted."""
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), "image/webp")


def too_large(size: str, max_bytes: int) -> str:
    """Say that a picture of so many bytes, as they are to be written, is over the limit."""
    return (
        f"The image has {size} bytes; at most {max_bytes:,} are accepted. "
        "Send a smaller or more compressed one."
    )


def check(data: bytes, *, max_bytes: int, max_pixels: int, param: str | None = None) -> None:
    """Accept the bytes of one picture or say what is wrong with them.

    Raises:
        RequestTooLarge: more bytes, pixels or a longer side than allowed.
        InvalidImage: not a JPEG, PNG, WebP or GIF, or damaged.
    """
    if len(data) > max_bytes:
        raise RequestTooLarge(too_large(f"{len(data):,}", max_bytes), param=param)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(*picture.size, max_pixels=max_pixels, param=param)
            picture.load()
    except (InvalidImage, RequestTooLarge):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RequestTooLarge(
            f"The image has far more than the {max_pixels:,} pixels that are accepted. "
            "Scale it down.",
            param=param,
        ) from None
    except Exception:
        raise InvalidImage(
            f"The image cannot be read: it is damaged, or not one of {', '.join(FORMATS)}.",
            param=param,
        ) from None


def _check_size(width: int, height: int, *, max_pixels: int, param: str | None) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise RequestTooLarge(
            f"The image has {width} x {height} pixels; at most {max_pixels:,} in all and "
            f"{MAX_SIDE:,} a side are accepted. Scale it down.",
            param=param,
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InvalidImage(
            f"The image is {width} x {height} pixels; the longer side may be at most "
            f"{MAX_RATIO} times the shorter.",
            param=param,
        )
