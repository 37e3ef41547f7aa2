"""Files that are sent as pictures: the same scene in many forms, broken ones, and bombs."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any

from PIL import Image

from tests.pictures import scene

SCENE = scene(("circle", "red", (60, 60)), ("square", "blue", (160, 160)))


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def png(size: tuple[int, int], *chunks: bytes, depth: int = 8) -> bytes:
    """A grey PNG of zeros, compressed row by row: no size is too large to be made here."""
    row_bytes = 1 + (size[0] * depth + 7) // 8
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(row_bytes)) for _ in range(size[1])) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, 0, 0, 0, 0))
    body = header + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def animation(size: tuple[int, int], frames: int) -> bytes:
    """A GIF whose frames are all the same."""
    one = saved(Image.new("P", size), "GIF")
    start = 13 + (3 * 2 ** ((one[10] & 7) + 1) if one[10] & 0x80 else 0)
    return one[:start] + one[start:-1] * frames + b";"


def lying(picture: Image.Image) -> bytes:
    """A JPEG on its side, which says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    return saved(turned, "JPEG", exif=exif, quality=95)


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("picture.png", data)
    return out.getvalue()


def same_scene() -> dict[str, bytes]:
    """`SCENE` in forms that must all be understood."""
    picture = Image.open(io.BytesIO(SCENE))
    jpeg = saved(picture, "JPEG", quality=95)
    blank = Image.new("RGB", picture.size, "white")
    clear = picture.convert("RGBA")
    clear.putdata(
        [(*p[:3], 0 if p[:3] == (255, 255, 255) else 255) for p in clear.get_flattened_data()]
    )
    return {
        "progressive JPEG": saved(picture, "JPEG", quality=95, progressive=True),
        "CMYK JPEG": saved(picture.convert("CMYK"), "JPEG", quality=95),
        "JPEG on its side": lying(picture),
        "palette PNG": saved(picture.convert("P"), "PNG"),
        "transparent PNG": saved(clear, "PNG"),
        "animated GIF": saved(picture, "GIF", save_all=True, append_images=[blank]),
        "animated WebP": saved(
            picture, "WEBP", lossless=True, save_all=True, append_images=[blank]
        ),
        "JPEG that is a ZIP too": jpeg + zipped(b"x"),
        "JPEG that is a page too": jpeg + b"<script>alert(1)</script>",
    }


def broken() -> dict[str, bytes]:
    """Files that are no picture, or none that is accepted; all are refused."""
    picture = Image.open(io.BytesIO(SCENE))
    jpeg = saved(picture, "JPEG")
    return {
        "empty": b"",
        "garbage": bytes(range(256)) * 40,
        "truncated JPEG": jpeg[: len(jpeg) // 2],
        "JPEG of two bytes": jpeg[:2],
        "truncated PNG": SCENE[: len(SCENE) // 2],
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
        "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
        "ZIP": zipped(SCENE),
        "GIF that is a script": b"GIF89a/*" + bytes(8) + b"*/=1;alert(1)//",
        "BMP": saved(picture, "BMP"),
        "TIFF": saved(picture, "TIFF"),
        "ICO": saved(picture, "ICO"),
        "long thread": png((20_000, 1)),
        "short thread": png((2_000, 1)),
    }


def bombs() -> dict[str, bytes]:
    """Small files that would fill the memory if they were decoded, or unpacked."""
    text, profile = (zlib.compress(bytes(size), 9) for size in (200_000_000, 50_000_000))
    return {
        "88 Mpx": png((11_000, 8_000)),
        "177 Mpx": png((14_000, 12_643)),
        "400 Mpx": png((20_000, 20_000), depth=1),
        "zTXt": png((64, 64), chunk(b"zTXt", b"note\0\0" + text)),
        "iCCP": png((64, 64), chunk(b"iCCP", b"icc\0\0" + profile)),
    }
