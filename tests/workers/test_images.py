"""Uploads become upright RGB pictures, or a clear refusal before much memory is spent."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from broker.errors import HeliographError, InvalidImage, RequestTooLarge
from workers.images import load_image

LIMIT = 25_000_000


def pixel(image: Image.Image, x: int, y: int) -> Any:
    """The colour of a pixel."""
    return image.getpixel((x, y))


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_four_web_formats_are_read(kind: str) -> None:
    image = load_image(encode(Image.new("RGB", (40, 30), (200, 30, 30)), kind), LIMIT)
    assert (image.mode, image.size) == ("RGB", (40, 30))
    red, green, _ = pixel(image, 20, 15)
    assert red > 180 > 60 > green


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "ICO", "EPS"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(InvalidImage, match="JPEG, PNG, WebP or GIF"):
        load_image(encode(Image.new("RGB", (40, 30)), kind), LIMIT)


def test_exif_orientation_turns_the_picture_upright() -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste((255, 0, 0), (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = load_image(encode(image, "JPEG", exif=exif, quality=95), LIMIT)
    assert upright.size == (20, 40)
    red, green, _ = pixel(upright, 10, 2)
    assert red > 200 > 80 > green


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "GIF"), ("RGBA", "WEBP")]
)
def test_transparency_is_composited_on_white(mode: str, kind: str) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    assert load_image(encode(clear, kind), LIMIT).getpixel((4, 4)) == (255, 255, 255)


def test_half_transparent_black_becomes_grey() -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert load_image(encode(half), LIMIT).getpixel((4, 4)) == (127, 127, 127)


@pytest.mark.parametrize("value", [0, 20_000, 65_535])
def test_sixteen_bit_grey_keeps_its_brightness(value: int) -> None:
    image = Image.new("I;16", (8, 8), value)
    assert load_image(encode(image), LIMIT).getpixel((4, 4)) == (value // 257,) * 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_colour_modes_are_converted(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = load_image(encode(Image.new("RGB", (8, 8), "white").convert(mode), kind), LIMIT)
    assert image.getpixel((4, 4)) == (255, 255, 255)


def test_only_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("L", (8, 8), grey) for grey in (255, 0)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data, LIMIT).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(5_001, 5_000), (20_000, 20_000), (100_000, 100_000)])
def test_too_many_pixels_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(RequestTooLarge, match="pixels"):
        load_image(bomb(*size), LIMIT)


@pytest.mark.parametrize("size", [(17_000, 100), (1, 201), (4_020, 20)])
def test_long_and_thin_pictures_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RequestTooLarge, match="side"):
        load_image(bomb(*size), LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    data = encode(Image.effect_noise((64, 64), 90).convert("RGB"), kind)
    with pytest.raises(InvalidImage):
        load_image(data[: len(data) * 2 // 3], LIMIT)


def test_no_bytes_mean_an_expired_upload() -> None:
    with pytest.raises(InvalidImage, match="upload it again"):
        load_image(b"", LIMIT)


@pytest.mark.parametrize("data", [b"not a picture", b"GIF89a", b"\xff\xd8\xff\xe0", bomb(5, 5)])
def test_garbage_is_refused_without_the_decoders_words(data: bytes) -> None:
    with pytest.raises(HeliographError) as caught:
        load_image(data, LIMIT)
    assert "0x" not in caught.value.message
    assert "BytesIO" not in caught.value.message
