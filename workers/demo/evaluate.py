"""Measure the demo model: `python -m workers.demo.evaluate [--model DIR] [--scenes N]`.

Greedy answers of transformers' own `generate`, in batches, are compared letter by letter with the
expected ones; a box is right when it covers the true box with an IoU above 0.5. Chats go on with
the model's own answers. Seeds come from `EVAL_SEEDS`, which training never touches.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AutoModelForImageTextToText
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from workers.demo.cases import Case, Message, make_cases
from workers.demo.prompts import Encoder
from workers.demo.questions import Turn

SHIPPED = Path(__file__).parent / "model"
BATCH = 48
BOX = re.compile(r"<ref>(.*?)</ref><box>\[\[(\d+), (\d+), (\d+), (\d+)\]\]</box>")


@dataclass(slots=True)
class Chat:
    """A case under way: token ids so far, tiles so far and the answers given."""

    case: Case
    ids: list[int] = field(default_factory=list)
    tiles: list[torch.Tensor] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One judged answer."""

    group: str
    kind: str
    question: str
    expected: str
    answer: str
    right: bool


class Subject:
    """The checkpoint under test."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
        self.model.requires_grad_(False)
        self.images = GotOcr2ImageProcessorPil.from_pretrained(folder)
        self.encoder = Encoder.load(folder)

    def add(self, chat: Chat, message: Message) -> None:
        """Append a user message, and the opening of the reply, to a chat."""
        chat.ids += self.encoder.user
        for picture in message.pictures:
            tiles = self.tiles(picture)
            chat.tiles.append(tiles)
            chat.ids += self.encoder.picture(len(tiles))
        chat.ids += (*self.encoder.text(message.turn.question), *self.encoder.reply)

    def tiles(self, picture: Image.Image) -> torch.Tensor:
        """Return the tiles of a picture as the image processor cuts them."""
        pixels: torch.Tensor = self.images(picture, return_tensors="pt")["pixel_values"]
        return pixels

    @torch.inference_mode()
    def answer(self, chats: Sequence[Chat]) -> list[list[int]]:
        """Generate one answer for each chat; returns token ids without the end of turn."""
        longest = max(len(chat.ids) for chat in chats)
        ids = torch.tensor([[0] * (longest - len(c.ids)) + c.ids for c in chats])
        mask = torch.tensor([[0] * (longest - len(c.ids)) + [1] * len(c.ids) for c in chats])
        tiles = [t for chat in chats for t in chat.tiles]
        pixels = {"pixel_values": torch.cat(tiles).to(self.model.dtype)} if tiles else {}
        made = self.model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **pixels)
        end = self.encoder.end
        rows = made[:, longest:].tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]

    def reply(self, chats: Sequence[Chat]) -> None:
        """Answer every chat and append the answers."""
        for chat, ids in zip(chats, self.answer(chats), strict=True):
            chat.answers.append(self.encoder.decode(ids))
            chat.ids += (*ids, *self.encoder.close)


def overlap(answer: str, expected: Turn) -> float:
    """Return the IoU of an answered box with the true one; 0 for a wrong form or name."""
    match, wanted = BOX.fullmatch(answer), BOX.fullmatch(expected.answer)
    if match is None or wanted is None or match[1] != wanted[1]:
        return 0.0
    ax, ay, bx, by = (int(v) for v in match.groups()[1:])
    cx, cy, dx, dy = (int(v) for v in wanted.groups()[1:])
    shared = max(0, min(bx, dx) - max(ax, cx)) * max(0, min(by, dy) - max(ay, cy))
    union = (bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - shared
    return shared / union if union > 0 else 0.0


def judge(chat: Chat) -> Iterator[Outcome]:
    """Compare the answers of a finished chat with the expected ones."""
    for message, answer in zip(chat.case.messages, chat.answers, strict=True):
        turn = message.turn
        right = overlap(answer, turn) > 0.5 if turn.box else answer == turn.answer
        yield Outcome(chat.case.group, turn.kind, turn.question, turn.answer, answer, right)


def evaluate(subject: Subject, cases: Iterable[Case]) -> list[Outcome]:
    """Hold every chat turn by turn, similar lengths together, and judge all answers."""
    chats = [Chat(case) for case in cases]
    bar = tqdm(total=sum(len(chat.case.messages) for chat in chats), file=sys.stderr)
    for number in range(max(len(chat.case.messages) for chat in chats)):
        open_chats = [chat for chat in chats if len(chat.case.messages) > number]
        for chat in open_chats:
            subject.add(chat, chat.case.messages[number])
        open_chats.sort(key=lambda chat: len(chat.ids))
        for start in range(0, len(open_chats), BATCH):
            batch = open_chats[start : start + BATCH]
            subject.reply(batch)
            bar.update(len(batch))
    bar.close()
    return [outcome for chat in chats for outcome in judge(chat)]


def shares(outcomes: Iterable[Outcome], by: str) -> dict[str, tuple[int, float]]:
    """Return the number of answers and the share of right ones by `kind` or `group`."""
    found: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        found[getattr(outcome, by)].append(outcome.right)
    return {name: (len(rights), sum(rights) / len(rights)) for name, rights in found.items()}


def report(outcomes: Sequence[Outcome]) -> dict[str, dict[str, tuple[int, float]]]:
    """Tabulate by kind of question, by group of chats, boxes alone and overall."""
    boxes = [o for o in outcomes if BOX.fullmatch(o.expected)]
    right = sum(o.right for o in outcomes) / len(outcomes)
    covered = sum(o.right for o in boxes) / max(1, len(boxes))
    return {
        "question": dict(sorted(shares(outcomes, "kind").items())),
        "chat": shares(outcomes, "group"),
        "total": {"boxes with IoU > 0.5": (len(boxes), covered), "overall": (len(outcomes), right)},
    }


def show(tables: dict[str, dict[str, tuple[int, float]]]) -> str:
    """Lay the tables out as text."""
    lines = []
    for title, rows in tables.items():
        lines.append(f"{title:<34}{'answers':>9}{'right':>9}")
        lines += [f"  {name:<32}{count:>9}{share:>9.1%}" for name, (count, share) in rows.items()]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, evaluate and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="0 to 999")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1, help="more are slower at this size")
    parser.add_argument("--json", type=Path, help="write tables and wrong answers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    subject = Subject(args.model, getattr(torch, args.dtype))
    outcomes = evaluate(subject, make_cases(args.scenes, args.seed))
    tables = report(outcomes)
    sys.stdout.write(show(tables) + "\n")
    if args.json:
        wrong = [
            [o.group, o.kind, o.question, o.expected, o.answer] for o in outcomes if not o.right
        ]
        args.json.write_text(json.dumps({"tables": tables, "wrong": wrong}, indent=1) + "\n")


if __name__ == "__main__":
    main()
