"""Uploaded bytes to an upright RGB picture, within limits that are checked before decoding.

Accepts JPEG, PNG, WebP and GIF (the first frame), nothing else: Pillow registers 43 openers, and
each is attack surface. Knows nothing of models, tiles or tensors. Messages never repeat a decoder's
own words, which can carry addresses and paths.
"""

from __future__ import annotations

import io

from PIL import Image, ImageOps, UnidentifiedImageError

from broker.errors import InvalidImage, RequestTooLarge
from broker.images import MAX_RATIO, MAX_SIDE

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_WHITE = (255, 255, 255)
_DAMAGED = "The picture is damaged or incomplete; open it and save it again."
_UNKNOWN = "This is not a picture that can be opened; send JPEG, PNG, WebP or GIF."


def load_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode a picture: upright, first frame, transparency on white, 8-bit RGB.

    Raises:
        InvalidImage: the bytes are no picture of a known format, or are damaged.
        RequestTooLarge: the picture has too many pixels, or is too long and thin.
    """
    if not data:
        raise InvalidImage("The picture is missing or has expired; upload it again.")
    with _open(data) as image:
        _check_size(*image.size, max_pixels)
        try:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # decoders and EXIF readers raise whatever damage leads to
            raise InvalidImage(_DAMAGED) from error


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestTooLarge("The picture has too many pixels; scale it down.") from error
    except UnidentifiedImageError as error:
        raise InvalidImage(_UNKNOWN) from error
    except Exception as error:  # as above
        raise InvalidImage(_DAMAGED) from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    size = f"The picture has {width} x {height} pixels"
    if width * height > max_pixels:
        raise RequestTooLarge(f"{size}; at most {max_pixels:,} are allowed. Scale it down.")
    if max(width, height) > MAX_SIDE:
        raise RequestTooLarge(f"{size}; no side may be longer than {MAX_SIDE:,}. Scale it down.")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise RequestTooLarge(f"{size}; the sides may differ {MAX_RATIO}-fold at most. Crop it.")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, _WHITE)
        canvas.paste(layer, mask=layer.getchannel("A"))
        return canvas
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey values; Pillow's own conversion clips them, which leaves white."""
    return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
