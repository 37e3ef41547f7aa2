"""The demo model: scenes and answers are exact; the shipped checkpoint reads a plain drawing."""

from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image, ImageChops, ImageDraw

from workers.demo import pairs, questions, smalltalk
from workers.demo.cases import Case, Message, make_cases
from workers.demo.evaluate import SHIPPED, Chat, Subject, overlap
from workers.demo.painting import draw, random_style
from workers.demo.prompts import Encoder, Packer
from workers.demo.questions import Turn
from workers.demo.samples import cell_targets, chain, cut
from workers.demo.scenes import (
    EVAL_SEEDS,
    KINDS,
    TRAIN_SEEDS,
    Scene,
    Shape,
    Style,
    random_scene,
)

WHITE = Style(renderer="plain")
RED_CIRCLE = Shape("circle", "red", (255, 0, 0), 60, 60, 30)
BLUE_SQUARE = Shape("square", "blue", (0, 0, 255), 170, 170, 30)
PAIR = Scene(224, 224, (RED_CIRCLE, BLUE_SQUARE))


@cache
def shipped() -> Subject:
    return Subject(SHIPPED, torch.float32)


def scene_of(seed: int) -> tuple[Scene, Style]:
    rng = Random(seed)
    style = random_style(rng)
    return random_scene(rng, style), style


@pytest.mark.parametrize("seed", range(12))
def test_a_seed_names_one_scene_and_one_picture(seed: int) -> None:
    first, second = scene_of(seed), scene_of(seed)
    assert first == second
    assert draw(*first).tobytes() == draw(*second).tobytes()


def test_a_seed_names_the_same_questions() -> None:
    scene, _ = scene_of(3)
    assert chain(Random(5), scene) == chain(Random(5), scene)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("renderer", ["plain", "supersampled", "raster"])
def test_a_box_is_the_extent_of_the_pixels(kind: str, renderer: str) -> None:
    shape = Shape(kind, "red", (255, 0, 0), 101.3, 90.7, 40, angle=0.4)
    style = Style(renderer=renderer)  # type: ignore[arg-type]
    picture = draw(Scene(220, 200, (shape,)), style)
    painted = ImageChops.difference(picture, Image.new("RGB", picture.size, "white")).getbbox()
    assert painted is not None
    assert all(abs(a - b) <= 2 for a, b in zip(painted, shape.box(), strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_shapes_lie_inside_the_picture_and_apart(seed: int) -> None:
    scene, _ = scene_of(seed)
    boxes = [shape.box() for shape in scene.shapes]
    for index, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and top >= 0 and right < scene.width and bottom < scene.height
        for a, b, c, d in boxes[index + 1 :]:
            assert right < a or c < left or bottom < b or d < top


def test_the_answers_follow_from_the_scene() -> None:
    rng = Random(1)
    seen: dict[str, set[str]] = {}
    for _ in range(600):
        turn = questions.about_scene(rng, PAIR)
        seen.setdefault(turn.kind, set()).add(turn.answer)
    assert seen["count all"] == {"two"}
    assert seen["count some"] <= {"none", "one"}
    assert seen["identify many"] == {"a red circle and a blue square"}
    assert seen["colour"] == {"red", "blue"}
    assert seen["shape"] == {"a circle", "a square"}
    assert seen["position"] == {"top left", "bottom right"}
    assert seen["relation what"] == {"nothing", "a red circle", "a blue square"}
    assert "<ref>red circle</ref><box>[[134, 134, 402, 402]]</box>" in seen["box"]


def test_equal_shapes_are_listed_together() -> None:
    twin = Shape("circle", "red", (255, 0, 0), 160, 60, 20)
    assert questions.describe(Scene(224, 224, (RED_CIRCLE, twin))) == "two red circles"


def test_two_pictures_are_told_apart() -> None:
    single = Scene(224, 224, (RED_CIRCLE,))
    turns = [pairs.about_two(Random(seed), PAIR, single) for seed in range(200)]
    compared = {turn.answer for turn in turns if turn.kind == "compare images"}
    assert compared == {"the first", "no"}


def test_training_and_evaluation_share_no_seed() -> None:
    assert TRAIN_SEEDS.stop <= EVAL_SEEDS.start


def test_cases_repeat_for_a_seed_and_differ_between_seeds() -> None:
    first, again, other = (list(make_cases(5, seed)) for seed in (1, 1, 2))
    texts = [[m.turn for case in cases for m in case.messages] for cases in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]


def test_tiles_equal_those_of_the_image_processor() -> None:
    scene, style = scene_of(8)
    image = draw(scene, style)
    tiles, grid = cut(image, 4)
    images = shipped().images
    mean, std = (torch.tensor(v)[:, None, None] for v in (images.image_mean, images.image_std))
    ours = (torch.from_numpy(tiles) / 255 - mean) / std
    assert torch.allclose(ours, shipped().tiles(image), atol=2e-2)
    objects, kinds, boxes = cell_targets(scene, grid)
    assert objects.shape == kinds.shape == boxes.shape[:2] == (len(tiles), 64)


def test_pieces_and_whole_text_give_the_same_tokens() -> None:
    encoder = shipped().encoder
    packer = Packer(encoder)
    packer.add((*encoder.user, *encoder.picture(1)))
    packer.turn(Turn("", "How many  red circles?\n\n ok é 漢", "two"))
    whole = (
        "<|im_start|>user\n<img>"
        + "<IMG_CONTEXT>" * 16
        + "</img>\nHow many  red circles?\n\n ok é 漢"
        "<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>"
    )
    assert tuple(packer.out.ids) == encoder.text(whole)
    assert encoder.decode(encoder.text("naïve 漢字 🙂 <box>")) == "naïve 漢字 🙂 <box>"


def test_training_notes_where_the_words_of_a_turn_point() -> None:
    scene = PAIR
    encoder = shipped().encoder
    places = {shape: box_of(scene, shape) for shape in scene.shapes}
    packer = Packer(encoder)
    asked = Turn("relation yes/no", "Is THE red circle left of the square?", "yes", RED_CIRCLE)
    packer.turn(asked, scene)
    packer.turn(Turn("identify many", "What is there?", questions.describe(scene) or ""), scene)
    seen = [(encoder.decode(packer.out.ids[: at + 1]), box) for at, box in packer.out.mentions]
    assert [box for _, box in seen] == [places[RED_CIRCLE], places[BLUE_SQUARE]]
    assert seen[0][0].endswith("THE red circle") and seen[1][0].endswith("the square")
    held = [(encoder.decode(packer.out.ids[: at + 1]), box) for at, box in packer.out.items]
    first, second = sorted(scene.shapes, key=lambda shape: shape.x)
    assert [box for _, box in held] == [places[first], places[second]]
    assert held[0][0].endswith("assistant\n")
    assert held[1][0].endswith(f"{first.name} and")


def box_of(scene: Scene, shape: Shape) -> tuple[float, ...]:
    return tuple(edge / scene.width for edge in shape.box())


def test_the_checkpoint_is_small() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 16 * 2**20


def ask(picture: Image.Image, *texts: str) -> list[str]:
    chat = Chat(Case("", ()))
    for index, text in enumerate(texts):
        shipped().add(chat, Message((picture,) if index == 0 else (), Turn("", text, "")))
        shipped().reply([chat])
    return chat.answers


def test_the_model_knows_a_plain_red_circle() -> None:
    picture = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(picture).ellipse((60, 70, 150, 160), "red")
    assert ask(picture, "What is in the picture?", "What colour is it?") == ["a red circle", "red"]
    assert ask(picture, "How many shapes are there?") == ["one"]
    (answer,) = ask(picture, "Where is the red circle? Give its box.")
    expected = questions.box_answer("red circle", (268, 312, 670, 714))
    assert overlap(answer, Turn("box", "", expected)) > 0.5


def test_the_model_declines_without_a_picture() -> None:
    chat = Chat(Case("", ()))
    shipped().add(chat, Message((), Turn("", "How many shapes are in the picture?", "")))
    shipped().reply([chat])
    assert chat.answers == [smalltalk.NO_PICTURE]


def test_the_folder_names_every_file_that_transformers_reads() -> None:
    names = {file.name for file in Path(SHIPPED).iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json"} <= names
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= names
    assert isinstance(shipped().encoder, Encoder)
