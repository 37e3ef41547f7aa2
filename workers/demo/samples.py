"""Training batches: pictures cut into tiles, packed with many questions each.

Pictures are drawn once and asked about several times: a pool keeps a few thousand of them and
renews some with every batch. Each sequence shares one prefix (the pictures) among several branches
(chats about them), so one pass through the vision tower teaches several answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import IterableDataset
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from workers.demo import pairs, questions, smalltalk
from workers.demo.clutter import random_clutter
from workers.demo.painting import draw, random_style
from workers.demo.prompts import IGNORE, Encoder, Packed, Packer
from workers.demo.questions import Turn
from workers.demo.scenes import (
    COLOURS,
    KINDS,
    TRAIN_SEEDS,
    Box,
    Scene,
    random_scene,
    random_size,
)

TILE = 112
CELLS = 8
POOL_SIZE = 4000
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You answer questions about pictures.",
    "Answer briefly.",
    "You are Heliograph, a vision assistant.",
    "You are a friendly chatbot. Be concise.",
)
PRACTICE: dict[questions.Asker, float] = {
    questions.ask_identify: 3.6,
    questions.ask_relation_what: 2.2,
    questions.ask_relation_yes: 2.2,
    questions.ask_box: 2.4,
    questions.ask_count_some: 2.0,
}
SAMPLES = {"small": 20, "large": 10, "pair": 11}
EARLY = {"look": 70, "small": 24, "large": 4, "pair": 2}
LATE = {"look": 6, "small": 52, "large": 28, "pair": 14}
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Picture:
    """Tiles (n, 3, 112, 112) of one picture, what they show and where shapes have their centres."""

    tiles: npt.NDArray[np.uint8]
    scene: Scene | None
    objects: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]


def cut(image: Image.Image, max_tiles: int) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Cut a picture into tiles as transformers' `GotOcr2ImageProcessorPil` does, thumbnail last."""
    grid = get_optimal_tiled_canvas((image.height, image.width), (TILE, TILE), 1, max_tiles)
    columns, rows = grid
    whole = np.asarray(image.resize((TILE * columns, TILE * rows), Image.Resampling.BICUBIC))
    tiles = [
        whole[r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE]
        for r in range(rows)
        for c in range(columns)
    ]
    if len(tiles) > 1:
        tiles.append(np.asarray(image.resize((TILE, TILE), Image.Resampling.BICUBIC)))
    return np.stack(tiles).transpose(0, 3, 1, 2), grid


def cell_targets(
    scene: Scene | None, grid: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Name, per tile and patch, the shape centred there, the kind about there, and the box.

    Names and kinds are 0 where there is none; boxes are distances from the middle of the patch.
    """
    columns, rows = grid
    views = [(columns, rows, c, r) for r in range(rows) for c in range(columns)]
    views += [(1, 1, 0, 0)] if len(views) > 1 else []
    objects = np.zeros((len(views), CELLS * CELLS), np.int64)
    kinds = np.zeros((len(views), CELLS, CELLS), np.int64)
    boxes = np.zeros((len(views), CELLS * CELLS, 4), np.float32)
    for shape in scene.shapes if scene else ():
        assert scene is not None
        left, top, right, bottom = shape.box()
        across = np.array([left, (left + right) / 2, right]) / scene.width
        down = np.array([top, (top + bottom) / 2, bottom]) / scene.height
        for view, (wide, high, column, row) in enumerate(views):
            x, y = across * wide - column, down * high - row
            i, j = (np.clip(v[[0, 2]] * CELLS + 0.5, 0, CELLS).astype(int) for v in (x, y))
            kinds[view, j[0] : j[1], i[0] : i[1]] = 1 + KINDS.index(shape.kind)
            if 0 <= x[1] < 1 and 0 <= y[1] < 1:
                cell = int(y[1] * CELLS) * CELLS + int(x[1] * CELLS)
                u, v = (cell % CELLS + 0.5) / CELLS, (cell // CELLS + 0.5) / CELLS
                label = COLOURS.index(shape.colour) * len(KINDS) + KINDS.index(shape.kind)
                objects[view, cell] = 1 + label
                boxes[view, cell] = (u - x[0], v - y[0], x[2] - u, y[2] - v)
    return objects, kinds.reshape(len(views), -1), boxes


def random_picture(seed: int, max_tiles: int) -> Picture:
    """Draw and cut the picture of a seed: a scene, or now and then clutter."""
    rng = Random(seed)
    if rng.random() < 0.07:
        image, scene = random_clutter(rng, random_size(rng, 400)), None
    else:
        style = random_style(rng)
        scene = random_scene(rng, style, size=random_size(rng, 1000 if max_tiles > 1 else 500))
        image = draw(scene, style)
    tiles, grid = cut(image, max_tiles)
    return Picture(tiles, scene, *cell_targets(scene, grid))


class Pool:
    """Pictures of one tile budget, renewed one by one."""

    def __init__(self, rng: Random, budgets: Sequence[int]) -> None:
        self._rng = rng
        self._budgets = budgets
        self._pictures: list[Picture] = []

    def renew(self, count: int) -> None:
        """Draw `count` pictures anew; the oldest places are overwritten at random once full."""
        for _ in range(count):
            picture = random_picture(
                self._rng.randrange(len(TRAIN_SEEDS)), self._rng.choice(self._budgets)
            )
            if len(self._pictures) < POOL_SIZE:
                self._pictures.append(picture)
            else:
                self._pictures[self._rng.randrange(POOL_SIZE)] = picture

    def pick(self, scene_only: bool = False) -> Picture:
        """Return any picture, or any scene."""
        while True:
            picture = self._rng.choice(self._pictures)
            if picture.scene is not None or not scene_only:
                return picture


class Batches(IterableDataset[Batch]):
    """An endless stream of batches; `start` keeps a resumed run from seeing the same ones."""

    def __init__(self, encoder: Encoder, seed: int, rank: int, start: int, easy_steps: int) -> None:
        self._encoder = encoder
        self._seed = seed
        self._rank = rank
        self._step = start
        self._easy_steps = easy_steps

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        rng = Random(f"{self._seed} {self._rank} {self._step}")
        small, large = Pool(rng, (1,)), Pool(rng, (4, 4, 4, 4, 3, 2, 6))
        small.renew(256)
        while True:
            kind = self._kind()
            self._step += 1
            if kind == "look":
                small.renew(36)
                large.renew(6)
                yield tiles_of([small.pick() for _ in range(64)] + [large.pick() for _ in range(8)])
                continue
            size = SAMPLES[kind]
            (small if kind == "small" else large).renew(size // 4)
            items = [self._sample(rng, kind, small, large) for _ in range(size)]
            yield collate([p for p, _ in items]) | tiles_of([q for _, qs in items for q in qs])

    def _kind(self) -> str:
        """Choose what the batch holds; all processes of a run choose alike."""
        shares = LATE if self._step >= self._easy_steps else EARLY
        return Random(self._step).choices(list(shares), list(shares.values()))[0]

    def _sample(
        self, rng: Random, kind: str, small: Pool, large: Pool
    ) -> tuple[Packed, list[Picture]]:
        packer = Packer(self._encoder)
        if rng.random() < 0.1:
            packer.add(self._encoder.system)
            packer.add((*self._encoder.text(rng.choice(SYSTEMS)), *self._encoder.close))
        packer.add(self._encoder.user)
        if kind == "small" and rng.random() < 0.05:
            packer.fill(lambda: [smalltalk.text_only(rng)])
            return packer.out, []
        if kind != "pair":
            picture = (small if kind == "small" else large).pick()
            self._ask_one(rng, packer, picture)
            return packer.out, [picture]
        pair = [(small if rng.random() < 0.6 else large).pick(scene_only=True) for _ in range(2)]
        self._ask_two(rng, packer, *pair)
        return packer.out, pair

    def _ask_one(self, rng: Random, packer: Packer, picture: Picture) -> None:
        block = self._encoder.picture(len(picture.tiles))
        roll = rng.random()
        if roll < 0.06:
            turn = ask(rng, picture.scene)
            packer.turn(turn, picture.scene, block)
            packer.next_user()
        elif roll < 0.1:
            packer.turn(smalltalk.text_only(rng))
            packer.next_user()
            packer.add(block)
        else:
            packer.add(block)
        packer.fill(lambda: chain(rng, picture.scene), picture.scene)

    def _ask_two(self, rng: Random, packer: Packer, first: Picture, second: Picture) -> None:
        assert first.scene is not None and second.scene is not None
        scene, other = first.scene, second.scene
        one, two = (self._encoder.picture(len(p.tiles)) for p in (first, second))
        if rng.random() < 0.6:
            packer.add(one + two)
            packer.fill(lambda: [pairs.about_two(rng, scene, other)])
            return
        packer.add(one)
        packer.turn(ask(rng, scene), scene)
        packer.next_user()
        packer.add(two)
        packer.fill(
            lambda: [
                pairs.about_newest(rng, other)
                if rng.random() < 0.6
                else pairs.about_two(rng, scene, other)
            ]
        )


def ask(rng: Random, scene: Scene | None) -> Turn:
    """Ask about a picture in a chat: mostly about the shapes, at times beside the point."""
    if scene is None:
        return smalltalk.about_clutter(rng)
    roll = rng.random()
    if roll < 0.03:
        return smalltalk.aside(rng)
    if roll < 0.05:
        return smalltalk.about_stranger(rng, scene)
    return questions.about_scene(rng, scene, PRACTICE)


def chain(rng: Random, scene: Scene | None) -> list[Turn]:
    """Return one to four turns, some of which lean on the turn before."""
    turns = [ask(rng, scene)]
    while len(turns) < 4 and rng.random() < 0.3:
        after = None
        if scene is not None and rng.random() < 0.7:
            after = questions.follow_up(rng, scene, turns[-1])
        turns.append(after or ask(rng, scene))
    return turns


def collate(rows: list[Packed]) -> Batch:
    """Pad the sequences on the right."""
    longest = max(len(row.ids) for row in rows)
    longest += -longest % 8

    def pad(name: str, fill: float, dtype: torch.dtype) -> torch.Tensor:
        lists = [getattr(row, name) for row in rows]
        return torch.tensor([v + [fill] * (longest - len(v)) for v in lists], dtype=dtype)

    return {
        "ids": pad("ids", 0, torch.long),
        "targets": pad("targets", IGNORE, torch.long),
        "weights": pad("weights", 0.0, torch.float32),
        "positions": pad("positions", 0, torch.long),
        "branches": pad("branches", -1, torch.long),
        "mentions": marks([row.mentions for row in rows], longest),
        "items": marks([row.items for row in rows], longest),
    }


def marks(rows: list[list[tuple[int, Box]]], longest: int) -> torch.Tensor:
    """Lay places out as (n, 5): the token's index in the flattened batch and the four edges."""
    flat = [(row * longest + at, *box) for row, found in enumerate(rows) for at, box in found]
    return torch.tensor(flat, dtype=torch.float32).view(-1, 5)


def tiles_of(pictures: list[Picture]) -> Batch:
    """Stack the tiles of all pictures in order, with what the patches show."""
    if not pictures:
        return {}
    return {
        "tiles": torch.from_numpy(np.concatenate([p.tiles for p in pictures])),
        "objects": torch.from_numpy(np.concatenate([p.objects for p in pictures])),
        "kinds": torch.from_numpy(np.concatenate([p.kinds for p in pictures])),
        "boxes": torch.from_numpy(np.concatenate([p.boxes for p in pictures])),
    }
