"""Uploaded bytes to an upright RGB picture, and the shapes it may be given before it is tiled.

Limits are checked before decoding. JPEG, PNG, WebP and GIF (the first frame) are accepted, nothing
else: Pillow registers 43 openers, and each is attack surface. Knows nothing of models, tiles or
tensors. Messages never repeat a decoder's own words, which can carry addresses and paths.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from broker.errors import InvalidImage, RequestTooLarge
from broker.images import MAX_RATIO, MAX_SIDE
from broker.messages import ImageProcessMode

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_WHITE = (255, 255, 255)
_PADDING = (122, 116, 104)
_RESIZED = (336, 336)
_LONG_SIDE = 1344
_SHORT_SIDE = 672
_DAMAGED = "The picture is damaged or incomplete; open it and save it again."
_UNKNOWN = "This is not a picture that can be opened; send JPEG, PNG, WebP or GIF."


def load_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode a picture: upright, first frame, transparency on white, 8-bit RGB.

    Raises:
        InvalidImage: the bytes are no picture of a known format, or are damaged.
        RequestTooLarge: the picture has too many pixels, or is too long and thin.
        MemoryError: this process has no room for it.
    """
    if not data:
        raise InvalidImage("The picture is missing or has expired; upload it again.")
    with _open(data) as image:
        _check_size(*image.size, max_pixels)
        try:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a copy would be another 100 MB
            return _to_rgb(image)
        except MemoryError:  # says nothing about the picture
            raise
        except Exception as error:  # decoders and EXIF readers raise whatever damage leads to
            raise InvalidImage(_DAMAGED) from error


def process_image(image: Image.Image, mode: ImageProcessMode) -> Image.Image:
    """Give a picture of `load_image` the shape that the original chat servers offer.

    Default keeps it, Crop takes the square in the middle, Pad adds a margin to a square, Resize
    squashes it to 336 x 336. After that, one with a side above 1344 pixels is scaled down, to 672
    in its shorter side or 1344 in its longer, whichever is less.
    """
    return _scale_down(_SHAPES[mode](image))


def _crop(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _pad(image: Image.Image) -> Image.Image:
    if max(image.size) > _LONG_SIDE:  # scaled down now: its square could take a gigabyte
        image = ImageOps.contain(image, (_SHORT_SIDE, _SHORT_SIDE))
    side = max(image.size)
    square = Image.new("RGB", (side, side), _PADDING)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


_SHAPES: dict[ImageProcessMode, Callable[[Image.Image], Image.Image]] = {
    "Default": lambda image: image,
    "Crop": _crop,
    "Pad": _pad,
    "Resize": lambda image: image.resize(_RESIZED),
}


def _scale_down(image: Image.Image) -> Image.Image:
    longer, shorter = max(image.size), min(image.size)
    if longer <= _LONG_SIDE:
        return image
    ratio = longer / shorter
    # Rounded in this order, as the originals do: 1345 x 1000 becomes 903 x 672.
    short = int(min(_LONG_SIDE / ratio, _SHORT_SIDE, shorter))
    long = int(short * ratio)
    return image.resize((long, short) if image.width > image.height else (short, long))


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestTooLarge("The picture has too many pixels; scale it down.") from error
    except UnidentifiedImageError as error:
        raise InvalidImage(_UNKNOWN) from error
    except MemoryError:
        raise
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
    """Scale 16-bit grey values; Pillow's own conversion clips them, which leaves white.

    The one value that a PNG may declare transparent is looked for in all its 16 bits.
    """
    values = np.asarray(image)
    grey = Image.fromarray((values // 257).astype(np.uint8))
    if "transparency" in image.info:
        opaque = values != image.info["transparency"]
        grey.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return grey
