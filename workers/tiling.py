"""How a picture is cut into tiles, and how the pictures of a conversation share a tile budget.

InternVL's rule, with its names and signatures: the grid whose proportions are nearest to the
picture's, its tiles row by row, and a thumbnail of the whole. Families whose processor tiles for
itself follow the same rule; here it is at hand without a checkpoint. Knows nothing of requests,
and needs torch only where a picture becomes a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

TILE_SIDE = 448
"""Side of a tile in pixels, in every InternVL that was published."""

Grid = tuple[int, int]
"""Columns and rows."""

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def build_transform(input_size: int) -> Callable[[Image.Image], torch.Tensor]:
    """Make the function from a tile to a tensor `[3, input_size, input_size]`, float32.

    RGB, squashed bicubically, scaled to 0..1, then normalised by ImageNet's mean and deviation.
    """
    import torch

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))

    def transform(image: Image.Image) -> torch.Tensor:
        size = (input_size, input_size)
        tile = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.array(tile)).permute(2, 0, 1).contiguous()
        return values.float().div(255).sub(mean).div(std)

    return transform


def find_closest_aspect_ratio(
    aspect_ratio: float, target_ratios: Iterable[Grid], width: int, height: int, image_size: int
) -> Grid:
    """Choose the grid whose columns by rows are nearest to a picture's width by height.

    Of equally near grids a later one is taken if the picture has more than half of its pixels.
    Without any grid it is one tile.
    """
    chosen, smallest = (1, 1), math.inf
    for columns, rows in target_ratios:
        distance = abs(aspect_ratio - columns / rows)
        is_filled = 2 * width * height > columns * rows * image_size**2
        if distance < smallest or (distance == smallest and is_filled):
            chosen, smallest = (columns, rows), distance
    return chosen


def choose_grid(
    width: int, height: int, min_num: int = 1, max_num: int = 6, image_size: int = TILE_SIDE
) -> Grid:
    """Choose the grid of `min_num` to `max_num` tiles for a picture."""
    grids = _grids(min_num, max_num)
    return find_closest_aspect_ratio(width / height, grids, width, height, image_size)


def dynamic_preprocess(
    image: Image.Image,
    min_num: int = 1,
    max_num: int = 6,
    image_size: int = TILE_SIDE,
    use_thumbnail: bool = False,
) -> list[Image.Image]:
    """Cut a picture into `min_num` to `max_num` square tiles of side `image_size`, row by row.

    The thumbnail, if any, is the last and comes on top; a picture of one tile needs none.
    """
    columns, rows = choose_grid(*image.size, min_num, max_num, image_size)
    squashed = image.resize((columns * image_size, rows * image_size))
    corners = [(x * image_size, y * image_size) for y in range(rows) for x in range(columns)]
    tiles = [squashed.crop((x, y, x + image_size, y + image_size)) for x, y in corners]
    if use_thumbnail and len(tiles) > 1:
        tiles.append(image.resize((image_size, image_size)))
    return tiles


def tile_budget(images_per_turn: Sequence[int], max_tiles: int) -> list[int]:
    """Share `max_tiles` among the pictures of a conversation; the most tiles of each, in order.

    The last turn with pictures shares them evenly, those of earlier turns get one tile each. No
    turn gets more than `max_tiles`, unless it has more pictures: each takes one tile at least.
    """
    last = next((count for count in reversed(images_per_turn) if count), 0)
    earlier = sum(images_per_turn) - last
    return [1] * earlier + [max(1, max_tiles // last)] * last if last else []


@lru_cache(maxsize=64)
def _grids(min_num: int, max_num: int) -> tuple[Grid, ...]:
    """All grids within the limits, smaller ones first.

    Grids of equal area keep the order in which a set of them, filled like this, is iterated: that
    is what the original rule compares them in. It is the same everywhere, as hashes of small
    integers are not salted, and it can matter only where `min_num` is above 1: otherwise a smaller
    grid lies between any two of equal area, and is nearer.
    """
    found = {
        (columns, rows)
        for area in range(min_num, max_num + 1)
        for columns in range(1, area + 1)
        for rows in range(1, area + 1)
        if min_num <= columns * rows <= max_num
    }
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))
