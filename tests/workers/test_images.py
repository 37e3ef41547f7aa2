"""Uploads become upright RGB pictures, or a clear refusal before much memory is spent.

Sizes after the process modes are what the original function gave, Crop's apart: it crops here.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, get_args

import pytest
from PIL import Image

from broker.errors import HeliographError, InvalidImage, RequestTooLarge
from broker.messages import ImageProcessMode
from workers.images import load_image, process_image

LIMIT = 25_000_000


def pixel(image: Image.Image, x: int, y: int) -> Any:
    """The colour of a pixel."""
    return image.getpixel((x, y))


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(
    size: tuple[int, int], depth: int, colour: int, rows: bytes = b"", **chunks: bytes
) -> bytes:
    """A PNG made by hand, whose bytes need not be what its header says."""

    def chunk(kind: str, data: bytes) -> bytes:
        body = kind.encode() + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    middle = b"".join(chunk(kind, data) for kind, data in chunks.items())
    image = chunk("IDAT", zlib.compress(rows) if rows else b"")
    return b"\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + middle + image + chunk("IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""
    return png((width, height), 8, 2)


def colours(data: bytes) -> list[Any]:
    """All pixels of a picture, as it is loaded."""
    image = load_image(data, LIMIT)
    return [pixel(image, x, y) for y in range(image.height) for x in range(image.width)]


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, (0, 0)),
        (2, (2, 0)),
        (3, (2, 1)),
        (4, (0, 1)),
        (5, (0, 0)),
        (6, (1, 0)),
        (7, (1, 2)),
        (8, (0, 2)),
        (9, (0, 0)),
    ],
)
def test_all_eight_orientations_are_known(
    orientation: int, corner: tuple[int, int], kind: str
) -> None:
    image = Image.new("L", (3, 2), 255)
    image.putpixel((0, 0), 0)
    large = image.resize((48, 32), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = load_image(encode(large, kind, exif=exif), LIMIT)
    size = (32, 48) if orientation in (5, 6, 7, 8) else (48, 32)
    assert upright.size == size
    centres = [(x, y) for x in range(size[0] // 16) for y in range(size[1] // 16)]
    dark = [(x, y) for x, y in centres if pixel(upright, 16 * x + 8, 16 * y + 8)[0] < 60]
    assert dark == [corner]


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


GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""Colour types of PNG."""


def wide(*values: int) -> bytes:
    """A row of 16-bit samples, each twice the same byte."""
    return b"\0" + struct.pack(f">{len(values)}H", *(value * 257 for value in values))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png((2, 1), 16, RGB, wide(1, 2, 3, 100, 200, 255)), [(1, 2, 3), (100, 200, 255)]),
        (
            png((2, 1), 16, RGBA, wide(1, 2, 3, 0, 100, 200, 255, 255)),
            [(255, 255, 255), (100, 200, 255)],
        ),
        (png((2, 1), 16, GREY_ALPHA, wide(100, 0, 100, 255)), [(255,) * 3, (100,) * 3]),
        (
            png((2, 1), 16, GREY, b"\0" + struct.pack(">2H", 25_800, 100), tRNS=b"\0\x64"),
            [(100,) * 3, (255,) * 3],
        ),
        (png((2, 1), 1, GREY, b"\0\x40"), [(0,) * 3, (255,) * 3]),
        (png((2, 1), 1, GREY, b"\0\x40", tRNS=b"\0\0"), [(255,) * 3] * 2),
        (
            png((2, 1), 8, PALETTE, b"\0\0\1", PLTE=bytes((9, 9, 9, 200, 100, 0)), tRNS=b"\0\x80"),
            [(255, 255, 255), (227, 177, 127)],
        ),
    ],
    ids=[
        "16-bit RGB",
        "16-bit RGBA",
        "16-bit grey and alpha",
        "16-bit grey with a transparent value",
        "1-bit",
        "1-bit with a transparent value",
        "palette with alpha",
    ],
)
def test_every_kind_of_png_keeps_its_colours_on_white(data: bytes, expected: list[Any]) -> None:
    assert colours(data) == expected


def test_inks_become_light() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert colours(encode(red, "JPEG", quality=100)) == [(255, 0, 0)] * 64


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_colour_modes_are_converted(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = load_image(encode(Image.new("RGB", (8, 8), "white").convert(mode), kind), LIMIT)
    assert image.getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "MPO"])
def test_only_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("L", (8, 8), grey) for grey in (255, 0)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert load_image(data, LIMIT).getpixel((4, 4)) == (255, 255, 255)


def test_the_smallest_picture_is_one_pixel() -> None:
    assert colours(encode(Image.new("RGB", (1, 1), "navy"))) == [(0, 0, 128)]


@pytest.mark.parametrize("size", [(5_001, 5_000), (20_000, 20_000), (100_000, 100_000)])
def test_too_many_pixels_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(RequestTooLarge, match="pixels"):
        load_image(bomb(*size), LIMIT)


@pytest.mark.parametrize("size", [(17_000, 100), (20_000, 10), (1, 201), (4_020, 20)])
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


LARGE = {
    (1345, 1000): (903, 672),
    (4000, 3000): (896, 672),
    (3000, 4000): (672, 896),
    (2000, 100): (1340, 67),
    (5000, 50): (1300, 13),
    (1400, 1400): (672, 672),
    (2688, 1344): (1344, 672),
    (1344, 1000): (1344, 1000),
}


@pytest.mark.parametrize("size", LARGE)
def test_default_only_scales_large_pictures_down(size: tuple[int, int]) -> None:
    assert process_image(Image.new("RGB", size), "Default").size == LARGE[size]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((4000, 3000), (672, 672)),
        ((1000, 500), (1000, 1000)),
        ((500, 1001), (1001, 1001)),
        ((1344, 7), (1344, 1344)),
        ((5000, 50), (672, 672)),
        ((300, 300), (300, 300)),
    ],
)
def test_pad_makes_a_square_around_the_picture(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    padded = process_image(Image.new("RGB", size, "white"), "Pad")
    assert padded.size == expected
    side, margin = expected[0], (122, 116, 104)
    assert pixel(padded, side // 2, side // 2) == (255, 255, 255)
    wide, high = size[0] > size[1], size[1] > size[0]
    assert (pixel(padded, side // 2, 0) == margin) == wide
    assert (pixel(padded, 0, side // 2) == margin) == high


def test_an_odd_margin_is_wider_behind_the_picture() -> None:
    padded = process_image(Image.new("RGB", (2, 5), "white"), "Pad")
    dark = [x for x in range(5) if pixel(padded, x, 2) != (255, 255, 255)]
    assert dark == [0, 3, 4]


def test_crop_takes_the_square_in_the_middle() -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste((0, 0, 255), (100, 0, 200, 100))
    cropped = process_image(image, "Crop")
    assert cropped.size == (100, 100)
    assert cropped.getcolors() == [(10_000, (0, 0, 255))]
    assert process_image(Image.new("RGB", (4000, 3000)), "Crop").size == (672, 672)
    assert process_image(Image.new("RGB", (900, 1300)), "Crop").size == (900, 900)


@pytest.mark.parametrize("size", [(4000, 3000), (10, 900), (336, 336)])
def test_resize_squashes(size: tuple[int, int]) -> None:
    assert process_image(Image.new("RGB", size), "Resize").size == (336, 336)


@pytest.mark.parametrize("process", get_args(ImageProcessMode))
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_grey_and_palette_pictures_take_every_process_mode(
    mode: str, process: ImageProcessMode
) -> None:
    image = load_image(encode(Image.new("RGB", (30, 10), "white").convert(mode)), LIMIT)
    shaped = process_image(image, process)
    assert shaped.mode == "RGB"
    assert pixel(shaped, shaped.width // 2, shaped.height // 2) == (255, 255, 255)


@pytest.mark.parametrize("process", get_args(ImageProcessMode))
def test_no_process_mode_makes_a_long_picture_huge(process: ImageProcessMode) -> None:
    shaped = process_image(Image.new("RGB", (16_384, 82)), process)
    assert max(shaped.size) <= 1344
