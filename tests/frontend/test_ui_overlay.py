"""Boxes on pictures, by their pixels."""

from __future__ import annotations

import io
from itertools import pairwise, product

import numpy as np
import pytest
from PIL import Image

from broker.errors import InvalidImage
from frontend.ui.boxes import Box, Region
from frontend.ui.overlay import COLOURS, MAX_SIDE, WHITE, Rgb, draw, line_width
from tests.pictures import encode

GREY = (200, 190, 180)


def canvas(size: tuple[int, int], colour: Rgb = GREY) -> bytes:
    return encode(Image.new("RGB", size, colour))


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image).copy()


def bounds(found: np.ndarray, colour: Rgb) -> tuple[int, int, int, int]:
    """First and last column and row that have a colour: x1, y1, x2, y2."""
    rows, columns = np.nonzero((found == colour).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_a_box_is_drawn_where_it_is_and_nothing_else() -> None:
    drawn = pixels(draw(canvas((400, 200)), [Region("", (Box(250, 250, 750, 750),))]).png)
    assert drawn.shape == (200, 400, 3)  # without a name there is no legend
    assert bounds(drawn, COLOURS[0]) == (100, 50, 300, 150)
    assert bounds(drawn, WHITE) == (99, 49, 301, 151)
    inside, outside = drawn[53:148, 103:298], drawn.copy()
    assert (inside == GREY).all()
    outside[49:152, 99:302] = GREY
    assert (outside == GREY).all()
    assert (drawn[50, 100:301] == COLOURS[0]).all()
    assert (drawn[49, 99:302] == WHITE).all() and (drawn[51, 101:300] == WHITE).all()


@pytest.mark.parametrize(
    ("size", "width"), [((50, 40), 1), ((1000, 400), 2), ((600, 1000), 3), ((2000, 1000), 5)]
)
def test_lines_grow_with_the_picture(size: tuple[int, int], width: int) -> None:
    assert line_width(size) == width
    drawn = pixels(draw(canvas(size), [Region("", (Box(200, 200, 800, 800),))]).png)
    down = drawn[:, size[0] // 2]
    first = int(np.nonzero((down == COLOURS[0]).all(axis=1))[0][0])
    assert (down[first : first + width] == COLOURS[0]).all()
    assert (down[first + width] == WHITE).all() and (down[first - 1] == WHITE).all()


def luminance(colour: Rgb) -> float:
    parts = [part / 255 for part in colour]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Rgb, other: Rgb) -> float:
    """As the Web Content Accessibility Guidelines define it."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_line_or_edge_stands_out_from_every_background() -> None:
    backgrounds = list(product(range(0, 256, 17), repeat=3))
    for colour in COLOURS:
        assert contrast(colour, WHITE) >= 9
        for background in backgrounds:
            assert max(contrast(background, colour), contrast(background, WHITE)) >= 3


def test_each_category_has_its_colour_whatever_its_capitals() -> None:
    named = [
        Region("Cat", (Box(100, 300, 200, 400),)),
        Region("dog", (Box(300, 300, 400, 400), Box(500, 300, 600, 400))),
        Region("cat", (Box(700, 300, 800, 400),)),
    ]
    drawing = draw(canvas((500, 500)), named)
    assert [(each.name, each.colour, each.count) for each in drawing.legend] == [
        ("Cat", COLOURS[0], 2),
        ("dog", COLOURS[1], 2),
    ]
    bottom = pixels(drawing.png)[200]
    for column, colour in ((50, 0), (100, 0), (150, 1), (200, 1), (250, 1), (350, 0), (400, 0)):
        assert tuple(bottom[column]) == COLOURS[colour], column


def test_more_categories_than_colours_begin_again() -> None:
    count = len(COLOURS) + 1
    regions = [Region(f"n{n}", (Box(100 * n, 500, 100 * n + 50, 600),)) for n in range(count)]
    legend = draw(canvas((1000, 300)), regions).legend
    assert legend[-1].colour == legend[0].colour == COLOURS[0]
    assert len({each.colour for each in legend[:-1]}) == len(COLOURS)


@pytest.mark.parametrize(
    "box", [Box(0, 0, 100, 100), Box(900, 0, 1000, 100), Box(900, 900, 1000, 1000)]
)
@pytest.mark.parametrize("size", [(300, 300), (120, 300), (60, 30), (14, 14), (3, 3)])
def test_labels_and_lines_stay_inside_the_picture(size: tuple[int, int], box: Box) -> None:
    found = pixels(draw(canvas(size), [Region("a very long name of a thing", (box,))]).png)
    picture, legend = found[: size[1]], found[size[1] :]
    assert (picture == COLOURS[0]).all(axis=2).any()
    assert found.shape[1] == size[0]
    if size == (300, 300):
        left, _, right, _ = bounds(picture, COLOURS[0])
        assert right - left > 150  # the whole name's plate, wherever the box of 31 pixels is
        assert (picture == COLOURS[0]).all(axis=2).sum() > 1000
        assert (legend == COLOURS[0]).all(axis=2).sum() > 100


def test_a_label_stands_above_its_box_or_within_it_at_the_upper_edge() -> None:
    above = pixels(draw(canvas((300, 300)), [Region("x", (Box(300, 500, 600, 900),))]).png)
    within = pixels(draw(canvas((300, 300)), [Region("x", (Box(300, 0, 600, 400),))]).png)
    for drawn, rows in ((above, slice(125, 148)), (within, slice(3, 20))):
        plate = (drawn[rows, 93:104] == COLOURS[0]).all(axis=2)
        assert plate.sum() > 80
    assert (above[:120] == GREY).all()


def test_the_legend_has_a_line_for_each_named_category_below_the_picture() -> None:
    regions = [
        Region("cat", (Box(100, 500, 200, 600),)),
        Region("dog", (Box(500, 500, 600, 600),)),
        Region("", (Box(700, 700, 800, 800),)),
    ]
    found = pixels(draw(canvas((300, 300)), regions).png)
    legend = found[300:]
    tops = [bounds(legend, COLOURS[n])[1] for n in (0, 1)]
    assert tops[0] < tops[1] < len(legend)
    assert all(bounds(legend, COLOURS[n])[0] == 5 for n in (0, 1))
    assert not (legend == COLOURS[2]).all(axis=2).any()
    dark = (legend[:, 40:] < 100).all(axis=2)
    assert dark[tops[0] : tops[1]].any() and dark[tops[1] :].any()  # the names


def test_a_name_in_a_script_without_a_font_is_numbered() -> None:
    unwritable = "\U00012000\U00012001"  # cuneiform
    drawing = draw(canvas((300, 300)), [Region(unwritable, (Box(100, 500, 600, 900),))])
    (category,) = drawing.legend
    assert (category.name, category.label) == (unwritable, "1")


def test_boxes_lie_on_the_upright_picture() -> None:
    lying = Image.new("RGB", (200, 100), GREY)
    exif = lying.getexif()
    exif[0x0112] = 6  # the camera was turned: 100 wide and 200 high when upright
    out = io.BytesIO()
    lying.save(out, "PNG", exif=exif)
    found = pixels(draw(out.getvalue(), [Region("", (Box(200, 100, 800, 400),))]).png)
    assert found.shape == (200, 100, 3)
    assert bounds(found, COLOURS[0]) == (20, 20, 80, 80)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (None, (50, 50, 150, 75)),
        ("Default", (50, 50, 150, 75)),
        ("Resize", (50, 50, 150, 75)),
        ("Pad", (50, 50, 150, 99)),  # a square of 200: 50 above and below are margin
        ("Crop", (75, 50, 125, 75)),  # the square in the middle: 50 left and right are cut off
    ],
)
def test_coordinates_are_those_of_the_shape_that_the_model_saw(
    mode: str | None, expected: tuple[int, int, int, int]
) -> None:
    region = Region("", (Box(250, 500, 750, 750),))
    found = pixels(draw(canvas((200, 100)), [region], mode).png)  # type: ignore[arg-type]
    assert bounds(found, COLOURS[0]) == expected


def test_a_large_picture_is_drawn_smaller_and_boxes_with_it() -> None:
    found = pixels(draw(canvas((4096, 1024)), [Region("", (Box(250, 250, 750, 750),))]).png)
    assert found.shape == (512, MAX_SIDE, 3)
    assert bounds(found, COLOURS[0]) == (512, 128, 1536, 384)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16", "1", "CMYK"])
def test_every_kind_of_picture_is_drawn_on(mode: str) -> None:
    image = Image.new("RGB", (100, 100), (0, 0, 0)).convert("L").convert(mode.split(";")[0])
    if mode == "I;16":
        image = Image.fromarray(np.full((100, 100), 128 * 257, np.uint16))
    data = encode(image, "JPEG" if mode == "CMYK" else "PNG")
    found = pixels(draw(data, [Region("", (Box(100, 100, 900, 900),))]).png)
    assert bounds(found, COLOURS[0]) == (10, 10, 90, 90)
    if mode == "I;16":
        assert (found[50, 50] == 128).all()


def test_what_is_transparent_is_drawn_on_white() -> None:
    data = encode(Image.new("RGBA", (100, 100), (255, 0, 0, 0)))
    found = pixels(draw(data, [Region("", (Box(100, 100, 900, 900),))]).png)
    assert (found[50, 50] == WHITE).all()


def test_a_damaged_picture_is_refused() -> None:
    for data in (b"", b"no picture", canvas((500, 500))[:200]):
        with pytest.raises(InvalidImage):
            draw(data, [])


def test_legend_colours_differ_by_more_than_a_shade() -> None:
    for one, other in pairwise(COLOURS):
        assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 80
