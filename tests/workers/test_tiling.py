"""Pictures are cut as InternVL cuts them, pixel by pixel, and share their tiles by turn.

Numbers of tiles and digests are what the original functions gave for the same input, under the
same Pillow and, for tensors, torchvision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from workers.tiling import (
    build_transform,
    choose_grid,
    dynamic_preprocess,
    find_closest_aspect_ratio,
    tile_budget,
)

LIMITS = (1, 2, 3, 4, 6, 12, 24)
TILES = {
    (448, 448): (1, 1, 1, 1, 1, 1, 1),
    (800, 600): (1, 1, 1, 5, 7, 13, 13),
    (1000, 500): (1, 3, 3, 3, 3, 3, 3),
    (4000, 3000): (1, 1, 1, 5, 7, 13, 13),
    (1920, 1080): (1, 3, 3, 3, 3, 9, 16),
    (3000, 1000): (1, 3, 4, 4, 4, 13, 13),
    (2000, 100): (1, 3, 4, 5, 7, 13, 21),
}
sides = st.integers(1, 3_000)


def drawn(width: int, height: int) -> Image.Image:
    """A picture without two equal tiles."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 7 + y * 3, x * y // 5, x * x // 11 + y * 13)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def digest(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("size", TILES)
def test_the_number_of_tiles_is_the_originals(size: tuple[int, int]) -> None:
    picture = Image.new("L", size)
    counts = [len(dynamic_preprocess(picture, 1, limit, 448, True)) for limit in LIMITS]
    assert tuple(counts) == TILES[size]


@pytest.mark.parametrize(
    ("size", "options", "count", "expected"),
    [
        (
            (800, 600),
            {"max_num": 12, "use_thumbnail": True},
            13,
            "3ce9511f18810730ac95847c106a32a2acb8d14de3dfff9b706cbe6182ef8bd1",
        ),
        (
            (1000, 500),
            {"max_num": 4},
            2,
            "befef94a7358ea347d3dc3a9843f533df6fbfbd9e39e10c184490768faef4c19",
        ),
        (
            (300, 700),
            {"max_num": 6, "image_size": 112, "use_thumbnail": True},
            3,
            "c0e97b8961474b9d9a38274f3fd4ad3c17932dc04608357562e16744761172fa",
        ),
        ((640, 480), {}, 6, "14caba3679ca45f66fe41254fac48ceb59f82c33858e698b34b52fab99f89a0d"),
        (
            (500, 400),
            {"min_num": 2, "max_num": 2, "image_size": 28},
            2,
            "74c8374328e7966b9294e2a0de42ece4333086323de97f3d7cefcb89d8c5449b",
        ),
        (
            (500, 200),
            {"min_num": 4, "max_num": 4},
            4,
            "4e6060b7a0e35c989846dad681d057742c3172c33d218258d2de5f90530bf786",
        ),
    ],
)
def test_tiles_are_the_originals_pixel_by_pixel(
    size: tuple[int, int], options: dict[str, Any], count: int, expected: str
) -> None:
    tiles = dynamic_preprocess(drawn(*size), **options)
    side = options.get("image_size", 448)
    assert [tile.size for tile in tiles] == [(side, side)] * count
    assert digest([tile.tobytes() for tile in tiles]) == expected


@pytest.mark.parametrize(
    ("size", "mode", "side", "expected"),
    [
        ((60, 40), "RGB", 28, "74e16dc3fc7e92b13efa7880d036e3a5d444337803ab3420095f9ce26236a5e7"),
        (
            (448, 448),
            "RGB",
            448,
            "ca5658b0c81ecbb99504838a3fc848a4fb46c7c2ec7ea51098f420fa48c899c7",
        ),
        ((33, 90), "L", 56, "2cd38943ec54db0174d057b5b964877e40c8c62ef32f3b3d6e573c94b75394a6"),
        ((70, 30), "P", 24, "1f06b41192f5dc55ca620d5fe597bdc876f71a16ce03ff2297b7acc0c87e6485"),
    ],
)
def test_tensors_are_those_of_torchvision(
    size: tuple[int, int], mode: str, side: int, expected: str
) -> None:
    tensor = build_transform(side)(drawn(*size).convert(mode))
    assert (tensor.dtype, tensor.shape) == (torch.float32, (3, side, side))
    assert digest([tensor.numpy().tobytes()]) == expected


def grid_by_the_rule(
    size: tuple[int, int], least: int, most: int, side: int
) -> set[tuple[int, int]]:
    """The grids that the rule allows, slowly: more than one only where two have equal area."""
    width, height = size
    grids = [
        (columns, rows)
        for columns in range(1, most + 1)
        for rows in range(1, most + 1)
        if least <= columns * rows <= most
    ]
    nearest = min(abs(width / height - columns / rows) for columns, rows in grids)
    near = [grid for grid in grids if abs(width / height - grid[0] / grid[1]) == nearest]
    areas = sorted({columns * rows for columns, rows in near})
    filled = [area for area in areas if width * height > 0.5 * side * side * area]
    chosen = max(filled, default=areas[0])
    return {grid for grid in near if grid[0] * grid[1] == chosen}


@settings(max_examples=400)
@given(sides, sides, st.integers(1, 40), st.integers(1, 40), st.sampled_from([28, 112, 448, 1000]))
@example(1250, 1000, 2, 2, 448)
@example(896, 448, 1, 12, 448)
def test_the_grid_follows_the_rule(
    width: int, height: int, one: int, other: int, side: int
) -> None:
    least, most = min(one, other), max(one, other)
    allowed = grid_by_the_rule((width, height), least, most, side)
    assert choose_grid(width, height, least, most, side) in allowed
    (only,) = grid_by_the_rule((width, height), 1, most, side)
    assert choose_grid(width, height, 1, most, side) == only


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 12), st.booleans())
def test_tiles_together_are_the_squashed_picture(
    width: int, height: int, most: int, use_thumbnail: bool
) -> None:
    picture, side = drawn(width, height), 16
    tiles = dynamic_preprocess(picture, 1, most, side, use_thumbnail)
    ((columns, rows),) = grid_by_the_rule((width, height), 1, most, side)
    if use_thumbnail and columns * rows > 1:
        assert tiles.pop().tobytes() == picture.resize((side, side)).tobytes()
    assert len(tiles) == columns * rows <= most
    whole = np.array(picture.resize((columns * side, rows * side)))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        cut = whole[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert np.array_equal(np.array(tile), cut)


@pytest.mark.parametrize(
    ("size", "least", "most", "expected"),
    [
        ((500, 200), 4, 4, (4, 1)),
        ((5_000, 2_000), 4, 4, (2, 2)),
        ((13, 5), 5, 5, (5, 1)),
        ((1_300, 500), 5, 5, (1, 5)),
        ((150, 40), 6, 7, (6, 1)),
        ((15_000, 4_000), 6, 7, (3, 2)),
        ((50, 160), 8, 8, (2, 4)),
    ],
)
def test_equally_near_grids_of_equal_area_are_tried_in_the_originals_order(
    size: tuple[int, int], least: int, most: int, expected: tuple[int, int]
) -> None:
    assert choose_grid(*size, least, most) == expected


@pytest.mark.parametrize(
    ("area", "expected"), [((448, 448), (1, 1)), ((634, 634), (2, 2)), ((633, 633), (1, 1))]
)
def test_a_larger_grid_of_the_same_shape_needs_a_picture_of_half_its_area(
    area: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert find_closest_aspect_ratio(1.0, [(1, 1), (2, 2)], *area, 448) == expected


def test_limits_that_no_grid_meets_leave_the_picture_in_one_tile() -> None:
    assert [tile.size for tile in dynamic_preprocess(drawn(90, 30), 5, 4, 16, True)] == [(16, 16)]


@pytest.mark.parametrize("limit", [1, 2, 4, 6, 12])
@pytest.mark.parametrize("size", [(200, 150), (37, 190), (300, 100), (56, 56), (640, 90)])
def test_the_processor_of_published_checkpoints_cuts_alike(
    size: tuple[int, int], limit: int
) -> None:
    """It differs only for `min_patches` above 1, in the order of grids of equal area."""
    picture, side = drawn(*size), 56
    processor: Any = GotOcr2ImageProcessorPil(
        size={"height": side, "width": side},
        crop_to_patches=True,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    given = processor(picture, max_patches=limit, return_tensors="pt")["pixel_values"]
    transform = build_transform(side)
    ours = torch.stack(
        [transform(tile) for tile in dynamic_preprocess(picture, 1, limit, 56, True)]
    )
    torch.testing.assert_close(given, ours, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("images_per_turn", "max_tiles", "expected"),
    [
        ([4], 12, [3, 3, 3, 3]),
        ([5], 12, [2, 2, 2, 2, 2]),
        ([1, 0, 2], 12, [1, 6, 6]),
        ([2, 3, 0], 12, [1, 1, 4, 4, 4]),
        ([3], 2, [1, 1, 1]),
        ([], 12, []),
        ([0, 0], 12, []),
    ],
)
def test_the_last_turn_with_pictures_shares_the_tiles(
    images_per_turn: list[int], max_tiles: int, expected: list[int]
) -> None:
    assert tile_budget(images_per_turn, max_tiles) == expected


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 64))
def test_no_turn_gets_more_than_the_limit_but_one_tile_for_each_picture(
    images_per_turn: list[int], max_tiles: int
) -> None:
    budget = iter(tile_budget(images_per_turn, max_tiles))
    for count in images_per_turn:
        shares = [next(budget) for _ in range(count)]
        assert sum(shares) <= max(max_tiles, count)
        assert all(share >= 1 for share in shares)
    assert list(budget) == []
