"""`python -m workers tiles` prints how a picture is cut, from a shell, without a model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.workers.test_images import bomb


def tiles(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workers", "tiles", *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
    return subprocess.run(command, capture_output=True, text=True, env=kept | env, timeout=60)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A JPEG that lies on its side and calls itself a PNG: upright it has 800 x 600 pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.png"
    Image.new("RGB", (600, 800)).save(path, "JPEG", exif=exif)
    return path


def test_the_plan_has_size_grid_tiles_and_what_each_turn_leaves(photo: Path) -> None:
    plan = tiles(photo, "--max-input-tiles", "12", "--images-per-turn", "1", "0", "2")
    assert plan.stdout.splitlines() == [
        "picture  800 x 600 pixels, upright",
        "tile     448 x 448 pixels",
        "turn  pictures  limit  grid     tiles           left of 12",
        "1     1         1      1 x 1    1               11",
        "2     0         -      -        -               -",
        "3     2         6      3 x 2    6 + thumbnail   0",
    ]
    assert (plan.stderr, plan.returncode) == ("", 0)


def test_by_default_it_stands_once_and_twelve_tiles_may_be_used(photo: Path) -> None:
    last = tiles(photo).stdout.splitlines()[-1]
    assert last.split() == ["1", "1", "12", "4", "x", "3", "12", "+", "thumbnail", "0"]


def test_smaller_tiles_make_more_of_a_small_picture(tmp_path: Path) -> None:
    path = tmp_path / "square.webp"
    Image.new("L", (448, 448)).save(path)
    rows = [tiles(path, "--tile-size", side).stdout.splitlines()[-1] for side in ("448", "112")]
    assert rows[0].split() == ["1", "1", "12", "1", "x", "1", "1", "11"]
    assert rows[1].split() == ["1", "1", "12", "3", "x", "3", "9", "+", "thumbnail", "3"]


def test_more_pictures_than_tiles_show_how_many_are_missing(photo: Path) -> None:
    plan = tiles(photo, "--max-input-tiles", "2", "--images-per-turn", "3")
    assert plan.stdout.splitlines()[-1].split() == ["1", "3", "1", "1", "x", "1", "1", "-1"]


def test_what_is_no_usable_picture_is_one_sentence_and_status_1(tmp_path: Path) -> None:
    text, large = tmp_path / "text.png", tmp_path / "large.png"
    text.write_text("not a picture")
    large.write_bytes(bomb(10_000, 10_000))
    missing = tmp_path / "missing.png"
    said = {path: tiles(path) for path in (text, large, missing)}
    assert [each.returncode for each in said.values()] == [1, 1, 1]
    assert [each.stdout for each in said.values()] == ["", "", ""]
    assert said[text].stderr == (
        "heliograph tiles: This is not a picture that can be opened; send JPEG, PNG, WebP or GIF.\n"
    )
    assert said[large].stderr == (
        "heliograph tiles: The picture has 10000 x 10000 pixels; at most 25,000,000 are allowed. "
        "Scale it down.\n"
    )
    assert said[missing].stderr == (
        f"heliograph tiles: {missing} cannot be read: No such file or directory.\n"
    )


def test_the_workers_own_limit_on_pixels_holds(photo: Path) -> None:
    small = tiles(photo, HELIOGRAPH_MAX_IMAGE_PIXELS="479999")
    assert small.returncode == 1
    assert "at most 479,999 are allowed" in small.stderr


@pytest.mark.parametrize("value", ["0", "65"])
def test_limits_are_those_of_a_request(photo: Path, value: str) -> None:
    refused = tiles(photo, "--max-input-tiles", value)
    assert refused.returncode == 2
    assert f"{value} is not from 1 to 64" in refused.stderr


def test_neither_torch_nor_transformers_is_loaded(photo: Path) -> None:
    code = (
        "import sys; sys.argv = ['workers', 'tiles', sys.argv[1]]\n"
        "from workers.__main__ import main; main()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, photo], check=True, capture_output=True)
