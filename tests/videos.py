"""Videos drawn for tests: grey frames that grow lighter from black to white."""

from __future__ import annotations

import io

import av
from PIL import Image


def draw_video(
    frames: int = 40,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    container: str = "mp4",
    codec: str = "libx264",
) -> bytes:
    """Encode such a video."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            level = round(255 * number / max(1, frames - 1))
            image = Image.new("RGB", size, (level, level, level))
            output.mux(stream.encode(av.VideoFrame.from_image(image)))
        output.mux(stream.encode())
    return buffer.getvalue()
