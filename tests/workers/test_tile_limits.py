"""What a request says of tiles and process modes decides what the model gets to see."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from broker.messages import ChatMessage, GenerateRequest, ImagePart, TextPart, VideoPart
from tests.workers import checkpoints
from tests.workers.reference import generate, ids, load, picture, request, run
from workers.engines.local import LocalEngine
from workers.engines.pictures import Key, Pixels
from workers.images import load_image, process_image
from workers.scheduler import Scheduler
from workers.sequence import Sequence

WIDE = (56, 28)
"""Two tiles of the test's checkpoint, and a thumbnail."""


class Uploads(dict[str, bytes]):
    """Pictures by hash, and how often each was asked for."""

    def __init__(self, *pictures: tuple[ImagePart, bytes]) -> None:
        super().__init__((part.sha256, data) for part, data in pictures)
        self.asked: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.append(key)
        return super().get(key, default)


def conversation(*turns: tuple[ImagePart | VideoPart, ...], **sampling: object) -> GenerateRequest:
    """A request with these pictures turn by turn, each turn but the last answered."""
    messages: list[ChatMessage] = []
    for turn in turns:
        content = (*turn, TextPart(text="What?"))
        messages += [
            ChatMessage(role="user", content=content),
            ChatMessage(role="assistant", content=(TextPart(text="A cat."),)),
        ]
    asked = request("any", "", **sampling)
    return asked.model_copy(update={"messages": tuple(messages[:-1])})


def seen(sequence: Sequence) -> list[Pixels]:
    return [span.pixels for span in sequence.payload.spans]  # type: ignore[attr-defined]


def tiles(sequence: Sequence) -> list[int]:
    """Tiles of each picture, thumbnails included."""
    return [len(pixels.inputs["pixel_values"]) for pixels in seen(sequence)]


@pytest.fixture(scope="module")
def engine(internvl: Path) -> LocalEngine:
    return load(internvl, chunk_tokens=1000)


def test_the_last_turn_shares_the_tiles_and_earlier_ones_get_one_each(engine: LocalEngine) -> None:
    pictures = [picture(seed, WIDE) for seed in (1, 2, 3)]
    (a, _), (b, _), (c, _) = pictures
    asked = conversation((a,), (b, c), (), max_input_tiles=4)
    assert tiles(engine.prepare(asked, Uploads(*pictures))) == [1, 3, 3]
    asked = conversation((a, b, c), max_input_tiles=4)
    assert tiles(engine.prepare(asked, Uploads(*pictures))) == [1, 1, 1]


def test_what_became_of_each_picture_is_told(engine: LocalEngine, tmp_path: Path) -> None:
    wide, square = picture(1, WIDE), picture(2, (60, 60))
    asked = conversation((wide[0],), (wide[0], square[0]), image_process_mode="Resize")
    told = engine.prepare(asked, Uploads(wide, square)).usage.images
    assert [(each.width, each.height, each.tiles) for each in told] == [
        (*WIDE, 5),
        (*WIDE, 5),
        (60, 60, 5),
    ]
    asked = conversation((wide[0],), (wide[0], square[0]), max_input_tiles=4)
    sequence = engine.prepare(asked, Uploads(wide, square))
    told = sequence.usage.images
    assert [each.tiles for each in told] == tiles(sequence) == [1, 3, 1]
    assert {(each.tile_width, each.tile_height) for each in told} == {(28, 28)}
    assert [each.tokens for each in told] == [len(pixels.ids) for pixels in seen(sequence)]
    assert 3 * told[0].tokens > told[1].tokens > 2 * told[0].tokens
    assert engine.prepare(conversation(()), {}).usage.images == ()


def test_without_a_limit_the_checkpoint_decides(engine: LocalEngine) -> None:
    square, wide = picture(1, (60, 60)), picture(2, WIDE)
    asked = conversation((square[0],), (wide[0],), (square[0], wide[0]))
    assert tiles(engine.prepare(asked, Uploads(square, wide))) == [5, 3, 5, 3]
    limited = conversation((square[0],), max_input_tiles=9)
    assert tiles(engine.prepare(limited, Uploads(square))) == [10]


@pytest.mark.parametrize("sampling", [{}, {"max_input_tiles": 2}], ids=["no limit", "limit"])
def test_a_videos_frames_are_one_tile_each_beside_pictures(
    engine: LocalEngine, internvl: Path, sampling: dict[str, int]
) -> None:
    (a, _), (b, _), (c, _) = uploads = [picture(seed, WIDE) for seed in (1, 2, 3)]
    video = VideoPart(frames=(a.sha256, b.sha256))
    sequence = engine.prepare(conversation((video, c), max_tokens=9, **sampling), Uploads(*uploads))
    assert tiles(sequence) == [1, 1, 3]
    scheduler = Scheduler(engine)
    scheduler.add(sequence)
    assert ids(run(scheduler)["any"]) == generate(internvl, sequence)


def test_a_picture_in_two_turns_is_decoded_once_for_both_numbers_of_tiles(
    engine: LocalEngine, internvl: Path
) -> None:
    a, b = picture(1, WIDE), picture(2, WIDE)
    uploads = Uploads(a, b)
    asked = conversation((a[0], b[0]), (a[0],), max_input_tiles=2, max_tokens=9)
    sequence = engine.prepare(asked, uploads)
    assert tiles(sequence) == [1, 1, 3]
    assert uploads.asked == [a[0].sha256, b[0].sha256]
    scheduler = Scheduler(engine)
    scheduler.add(sequence)
    assert ids(run(scheduler)["any"]) == generate(internvl, sequence)


def test_process_modes_shape_what_the_model_sees_and_are_told_apart(internvl: Path) -> None:
    engine = load(internvl, chunk_tokens=1000)
    part, data = picture(5, (64, 20))
    original = load_image(data, 10_000)
    shown = {}
    for mode in (None, "Default", "Crop", "Pad", "Resize", "Crop"):
        asked = request(str(mode), part, "What is it?", max_tokens=9, image_process_mode=mode)
        sequence = engine.prepare(asked, {part.sha256: data})
        (pixels,) = seen(sequence)
        assert pixels.key == Key(part.sha256, None, mode)  # type: ignore[arg-type]
        shaped = original if mode is None else process_image(original, mode)  # type: ignore[arg-type]
        assert torch.equal(pixels.inputs["pixel_values"], expected_tiles(engine, shaped))
        scheduler = Scheduler(engine)
        scheduler.add(sequence)
        shown[mode] = ids(run(scheduler)[str(mode)])
        assert shown[mode] == generate(internvl, sequence)
    assert engine.runner.tower.encoded == 5
    assert len({tuple(answer) for answer in shown.values()}) == 4
    assert shown[None] == shown["Default"]


def expected_tiles(engine: LocalEngine, image: Image.Image) -> torch.Tensor:
    """The tiles of a picture that was shaped before it was sent."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    part, _ = picture(0, (1, 1))
    (pixels,) = seen(engine.prepare(request("shaped", part), {part.sha256: buffer.getvalue()}))
    return pixels.inputs["pixel_values"]


def test_a_model_that_does_not_cut_pictures_keeps_one_entry_for_each(tmp_path: Path) -> None:
    engine = load(checkpoints.save_llava(tmp_path))
    a, b = picture(1, WIDE), picture(2, WIDE)
    asked = conversation((a[0], b[0]), (a[0],), max_input_tiles=12)
    sequence = engine.prepare(asked, Uploads(a, b))
    assert [pixels.key for pixels in seen(sequence)] == [
        Key(part.sha256, None) for part in (a[0], b[0], a[0])
    ]
