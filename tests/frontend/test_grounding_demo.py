"""The demo model points at shapes of a real picture, and the box is drawn around them."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from broker.messages import SamplingParams
from frontend.service import Service
from frontend.ui.boxes import picture, plain, regions
from frontend.ui.overlay import COLOURS, draw
from tests.asking import answer, say
from tests.pictures import scene
from tests.stack import Stack

SHAPES = scene(("circle", "red", (60, 60)), ("square", "blue", (160, 150)))
RADIUS = 224 // 8


@pytest.fixture
def service(demo_stack: Stack) -> Iterator[Service]:
    made = Service(demo_stack.settings())
    yield made
    made.close()


@pytest.mark.parametrize(
    ("name", "centre"), [("red circle", (60, 60)), ("blue square", (160, 150))]
)
def test_the_box_of_an_answer_is_drawn_around_the_shape(
    service: Service, name: str, centre: tuple[int, int]
) -> None:
    messages = say(f"Where is the {name}? Give its box.", service.pictures.add(SHAPES))
    request = service.submit("heliograph-demo", messages, SamplingParams(temperature=0))
    told, _ = answer(service, request)
    assert plain(told) == name
    (region,) = regions(told)
    sha = picture(messages, region)
    assert sha is not None
    drawing = draw(service.pictures.read(sha), [region])
    with Image.open(io.BytesIO(drawing.png)) as image:
        assert image.width == 224
        found = np.asarray(image)[:224]
    line = (found == COLOURS[0]).all(axis=2)
    columns, rows = np.nonzero(line.sum(axis=0) > 30)[0], np.nonzero(line.sum(axis=1) > 30)[0]
    for drawn, middle in ((columns, centre[0]), (rows, centre[1])):
        assert abs(drawn.max() - (middle + RADIUS)) <= 6
    assert abs(columns.min() - (centre[0] - RADIUS)) <= 6
