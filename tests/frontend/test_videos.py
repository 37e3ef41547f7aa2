"""Videos become frames: from where in time, from which files, and what is refused."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from broker import images
from broker.errors import HeliographError, InvalidImage, RequestTooLarge
from frontend.videos import read_frames
from tests.stack import Stack
from tests.videos import draw_video

VIDEO = draw_video()


def frames(data: bytes, count: int, max_bytes: int = 10**7, max_pixels: int = 10**6) -> list[bytes]:
    return read_frames(data, count, max_bytes=max_bytes, max_pixels=max_pixels)


def brightness(frame: bytes) -> float:
    with Image.open(io.BytesIO(frame)) as image:
        return float(np.asarray(image.convert("L")).mean())


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("mov", "mpeg4"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")],
)
def test_frames_come_from_the_middle_of_each_share(container: str, codec: str) -> None:
    taken = frames(draw_video(container=container, codec=codec), 4)
    assert [brightness(frame) for frame in taken] == pytest.approx([32, 96, 160, 224], abs=8)


def test_a_video_shorter_than_the_frames_asked_for_gives_each_once() -> None:
    assert [brightness(f) for f in frames(draw_video(frames=2), 8)] == pytest.approx(
        [0, 255], abs=4
    )


def test_a_longer_video_is_sampled_without_decoding_all_of_it() -> None:
    taken = frames(draw_video(frames=900, fps=30), 3)
    assert [brightness(frame) for frame in taken] == pytest.approx([42, 128, 213], abs=8)


@pytest.mark.parametrize(
    ("data", "kind", "hint"),
    [
        (b"", InvalidImage, "send MP4, MOV, WebM, MKV or AVI"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", InvalidImage, "send MP4"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", InvalidImage, "send MP4"),
        (VIDEO[: len(VIDEO) // 2], InvalidImage, "damaged"),
        (b"\0\0\0\x18ftypmp42" + b"\0" * 500, InvalidImage, "damaged"),
        (draw_video(size=(1200, 1000)), RequestTooLarge, "1200 x 1000 pixels"),
        (VIDEO + bytes(10**7), RequestTooLarge, "at most 10,000,000"),
    ],
    ids=["empty", "playlist", "concat", "half", "hollow", "large pictures", "large file"],
)
def test_what_is_no_fit_video_is_refused(
    data: bytes, kind: type[HeliographError], hint: str
) -> None:
    with pytest.raises(kind, match=hint):
        frames(data, 4)


def test_a_playlist_within_a_known_container_opens_no_file(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(VIDEO)
    for opening in (b"\0\0\0\x18ftyp", b"\x1a\x45\xdf\xa3", b"RIFF\0\0\0\0AVI "):
        with pytest.raises(InvalidImage):
            frames(opening + f"\nffconcat version 1.0\nfile {target}\n".encode(), 1)


def ask(api: str, data: bytes, kind: str = "video/mp4", **options: object) -> httpx.Response:
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    content = [
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "text", "text": "What happens?"},
    ]
    body = {"model": "echo", "messages": [{"role": "user", "content": content}], **options}
    return httpx.post(f"{api}/v1/chat/completions", json=body, timeout=30)


@pytest.fixture(scope="module")
def api(echo_stack: Stack) -> str:
    return echo_stack.api(HELIOGRAPH_MAX_VIDEO_FRAMES="10")


def test_the_model_gets_the_frames_as_pictures_in_order(api: str, echo_stack: Stack) -> None:
    answer = ask(api, VIDEO, max_video_frames=3).json()["choices"][0]["message"]["content"]
    taken = [images.digest(frame) for frame in frames(VIDEO, 3)]
    assert answer == " ".join(f"[image {sha[:8]}]" for sha in taken) + " What happens?"
    stored = images.get(echo_stack.redis, taken)
    assert [brightness(stored[sha]) for sha in taken] == pytest.approx([42, 128, 213], abs=8)


def test_eight_frames_are_taken_unless_told_otherwise(api: str) -> None:
    answer = ask(api, VIDEO).json()["choices"][0]["message"]["content"]
    assert answer.count("[image") == 8


@pytest.mark.parametrize(
    ("options", "status", "hint"),
    [
        ({"max_video_frames": 11}, 413, "asks for 11 frames of videos; at most 10"),
        ({"max_video_frames": 0}, 400, "max_video_frames"),
        ({"kind": "image/png"}, 400, "data:video/mp4;base64"),
        ({"data": b"not a video"}, 400, "send MP4, MOV, WebM, MKV or AVI"),
    ],
)
def test_a_video_that_cannot_be_taken_is_the_senders_error(
    api: str, options: dict[str, object], status: int, hint: str
) -> None:
    response = ask(api, **{"data": VIDEO, **options})  # type: ignore[arg-type]
    assert response.status_code == status
    assert hint in response.json()["error"]["message"]
