"""`python -m workers tiles`: how a picture would be cut, and what is left of the tiles.

For people who wonder what a model gets to see of a picture. Loads no model and no torch; the rule
is that of `workers.tiling`, the limits on pictures are a worker's.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from broker.errors import ConfigurationError, HeliographError, InvalidRequest
from broker.messages import MAX_INPUT_TILES
from broker.settings import Settings
from workers.images import load_image
from workers.tiling import TILE_SIDE, choose_grid, tile_budget

_ROW = "{:<6}{:<10}{:<7}{:<9}{:<16}{}"
"""Turn, pictures in it; for each of them limit, grid and tiles; tiles that the turn leaves."""


def main(argv: list[str]) -> None:
    """Print the plan; what is wrong with the picture ends it with one sentence and status 1."""
    flags = _parse(argv)
    # Pillow's warning of many pixels would stand above our own sentence.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        picture = _read(flags.image)
    except (HeliographError, ConfigurationError) as error:
        sys.exit(f"heliograph tiles: {error}")
    for line in _plan(picture, flags.images_per_turn, flags.max_input_tiles, flags.tile_size):
        print(line)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers tiles", description="Show how a picture is cut into tiles."
    )
    parser.add_argument("image", type=Path, help="a JPEG, PNG, WebP or GIF")
    parser.add_argument(
        "--max-input-tiles",
        type=_within(1, MAX_INPUT_TILES),
        default=12,
        help="most tiles of the pictures of a turn (default: %(default)s)",
    )
    parser.add_argument(
        "--images-per-turn",
        type=_within(0, 1_000),
        nargs="+",
        default=[1],
        metavar="COUNT",
        help="how often the picture stands in each turn of a conversation (default: once in one)",
    )
    parser.add_argument(
        "--tile-size",
        type=_within(1, 4_096),
        default=TILE_SIDE,
        help="side of a tile in pixels (default: %(default)s)",
    )
    return parser.parse_args(argv)


def _within(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not from {least} to {most}")
        return value

    return number


def _read(path: Path) -> Image.Image:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from error
    return load_image(data, Settings.from_environment().max_image_pixels)


def _plan(picture: Image.Image, counts: Sequence[int], max_tiles: int, side: int) -> Iterator[str]:
    """Lines that say the picture's size, then for each turn how it is cut there."""
    yield f"picture  {picture.width} x {picture.height} pixels, upright"
    yield f"tile     {side} x {side} pixels"
    yield _ROW.format("turn", "pictures", "limit", "grid", "tiles", f"left of {max_tiles}")
    limits = tile_budget(counts, max_tiles)
    for turn, count in enumerate(counts, 1):
        cells: tuple[object, ...] = ("-",) * 4
        if count:
            limit = limits[sum(counts[: turn - 1])]
            columns, rows = choose_grid(*picture.size, max_num=limit, image_size=side)
            area = columns * rows
            tiles = f"{area} + thumbnail" if area > 1 else "1"
            cells = (limit, f"{columns} x {rows}", tiles, max_tiles - count * area)
        yield _ROW.format(turn, count, *cells)
