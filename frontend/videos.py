"""A video to the pictures that stand for it: frames at even distances, upright, as JPEG.

Only containers that hold their own streams are opened (MP4 and MOV, WebM and Matroska, AVI):
playlists would make the decoder open other files. Knows nothing of models; frames are pictures from
here on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import VideoFrame

from broker.errors import InvalidImage, RequestTooLarge

DEFAULT_FRAMES = 8
_MAX_DECODED = 5_000
"""Frames to decode for one video: key frames are at most some hundred apart."""
_QUALITY = 90


def read_frames(
    data: bytes, count: int, *, max_bytes: int, max_pixels: int, param: str | None = None
) -> list[bytes]:
    """Return up to `count` frames, each from the middle of its share of the video's duration.

    Raises:
        RequestTooLarge: more bytes or pixels than allowed, or too long between key frames.
        InvalidImage: no video of a known container, or damaged.
    """
    if len(data) > max_bytes:
        raise RequestTooLarge(
            f"The video has {len(data):,} bytes; at most {max_bytes:,} are accepted. "
            "Send a shorter or more compressed one.",
            param=param,
        )
    container = _container(data)
    if container is None:
        raise InvalidImage(
            "This is not a video that can be opened; send MP4, MOV, WebM, MKV or AVI.", param=param
        )
    try:
        with av.open(io.BytesIO(data), "r", format=container) as opened:
            _check_size(opened, max_pixels, param)
            frames = [_as_jpeg(frame) for frame in _sample(opened, count, param)]
    except (InvalidImage, RequestTooLarge):
        raise
    except Exception as error:  # decoders raise whatever damage leads to
        raise InvalidImage("The video is damaged or incomplete.", param=param) from error
    if not frames:
        raise InvalidImage("The video has no frame that can be read.", param=param)
    return frames


def _container(data: bytes) -> str | None:
    """Name the demuxer by the file's first bytes, so that no other is ever tried."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "mov"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if data.startswith(b"RIFF") and data[8:12] == b"AVI ":
        return "avi"
    return None


def _check_size(opened: InputContainer, max_pixels: int, param: str | None) -> None:
    if not opened.streams.video:
        raise InvalidImage("The file has no video in it.", param=param)
    context = opened.streams.video[0].codec_context
    if context.width * context.height > max_pixels:
        raise RequestTooLarge(
            f"The video's pictures have {context.width} x {context.height} pixels; at most "
            f"{max_pixels:,} are accepted. Scale it down.",
            param=param,
        )


def _sample(opened: InputContainer, count: int, param: str | None) -> Iterator[VideoFrame]:
    """Decode the frames that are shown at the middle of each of `count` shares of the time."""
    stream = opened.streams.video[0]
    stream.thread_type = "SLICE"  # frame threads would read far ahead of each seek
    length_s = _length_s(opened)
    left = _MAX_DECODED
    last: Any = None
    for number in range(count):
        wanted_s = length_s * (number + 0.5) / count
        opened.seek(int(wanted_s * av.time_base), backward=True)
        shown = None
        for frame in opened.decode(stream):
            left -= 1
            if left < 0:
                raise RequestTooLarge(
                    "The video has too few key frames to be sampled; encode it again.", param=param
                )
            if shown is not None and (frame.time or 0.0) > wanted_s:
                break
            shown = frame
        if shown is not None and shown.pts != last:
            last = shown.pts
            yield shown


def _length_s(opened: InputContainer) -> float:
    stream = opened.streams.video[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (opened.duration or 0) / av.time_base


def _as_jpeg(frame: VideoFrame) -> bytes:
    image = frame.to_image()  # type: ignore[no-untyped-call]
    if frame.rotation:
        image = image.rotate(frame.rotation, expand=True)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
