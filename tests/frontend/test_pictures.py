"""What an uploaded picture must be, and how it is refused, before anything is stored."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from broker.errors import HeliographError, InvalidImage, RequestTooLarge
from frontend import pictures

LIMITS = {"max_bytes": 1_000_000, "max_pixels": 1_000_000}


def encoded(form: str, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form)
    return buffer.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels to speak of."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_four_formats_are_accepted(form: str) -> None:
    pictures.check(encoded(form), **LIMITS)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "1"])
def test_every_common_pixel_mode_is_accepted(mode: str) -> None:
    pictures.check(encoded("PNG", mode=mode), **LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture at all",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"%PDF-1.7\n",
        b"\x89PNG\r\n\x1a\n",
        encoded("BMP"),
        encoded("TIFF"),
        encoded("JPEG", (400, 300))[:900],
        encoded("PNG", (400, 300))[:-40],
        encoded("PNG")[:20],
    ],
    ids=[
        "empty",
        "text",
        "svg",
        "eps",
        "pdf",
        "magic",
        "bmp",
        "tiff",
        "cut-jpeg",
        "cut-png",
        "cut-header",
    ],
)
def test_what_cannot_be_opened_is_an_invalid_image(data: bytes) -> None:
    with pytest.raises(InvalidImage) as refused:
        pictures.check(data, **LIMITS, param="messages.0.content.1.image_url")
    assert refused.value.status == 400
    assert refused.value.param == "messages.0.content.1.image_url"
    assert "JPEG, PNG, WEBP, GIF" in refused.value.message


def test_too_many_bytes_are_refused_before_the_bytes_are_looked_at() -> None:
    with pytest.raises(RequestTooLarge, match="1,001 bytes; at most 1,000 are accepted"):
        pictures.check(b"x" * 1001, max_bytes=1000, max_pixels=10)


@pytest.mark.parametrize(
    ("width", "height"), [(2000, 2000), (16_385, 1), (9_500, 9_500), (60_000, 60_000)]
)
def test_too_many_pixels_are_refused_from_the_header_alone(width: int, height: int) -> None:
    with pytest.raises(RequestTooLarge) as refused:
        pictures.check(png_header_only(width, height), **LIMITS)
    assert refused.value.status == 413
    assert "1,000,000" in refused.value.message


def test_a_picture_like_a_thread_is_refused() -> None:
    with pytest.raises(InvalidImage, match="at most 200 times"):
        pictures.check(encoded("PNG", (1005, 5)), **LIMITS)


def test_a_refusal_tells_nothing_of_the_library() -> None:
    with pytest.raises(HeliographError) as refused:
        pictures.check(encoded("JPEG", (400, 300))[:900], **LIMITS)
    assert "PIL" not in refused.value.message and "0x" not in refused.value.message
    assert refused.value.__cause__ is None
