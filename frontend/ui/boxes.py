"""Boxes that models write into their answers: what they say, and which picture they lie on.

InternVL and Qwen-VL write `<ref>name</ref><box>[[x1, y1, x2, y2], ...]</box>`, Qwen2-VL
`<|object_ref_start|>name<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>`; a box may also
stand without a name. Coordinates are thousandths of the picture's width and height. An answer is
anybody's text: it is matched against a strict form with limits, and what does not fit stays text.
How boxes are drawn is `overlay`'s to know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from broker.messages import ChatMessage, ImagePart

MAX_BOXES: Final = 100
"""Boxes of one answer; what comes after them stays text."""

MAX_NAME: Final = 100
MAX_BODY: Final = 4000
"""Characters of a name, and between `<box>` and `</box>`."""

_NUMBER: Final = r"\s?[0-9]{1,4}(?:\.[0-9]{1,3})?\s?"
_CORNERS: Final = ",".join([_NUMBER] * 4)
_POINT: Final = rf"\({_NUMBER},{_NUMBER}\)"
_LISTS: Final = re.compile(rf"\s?\[\s?\[{_CORNERS}\](?:\s?,\s?\[{_CORNERS}\])*\s?\]\s?", re.ASCII)
_POINTS: Final = re.compile(
    rf"\s?{_POINT}\s?,\s?{_POINT}(?:(?:\s?,\s?|\s)?{_POINT}\s?,\s?{_POINT})*\s?", re.ASCII
)
_VALUE: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")

_NAME: Final = rf"[^<]{{1,{MAX_NAME}}}"
_BODY: Final = rf"[^<]{{1,{MAX_BODY}}}"
_REGION: Final = re.compile(
    rf"(?:<ref>(?P<name>{_NAME})</ref>\s?)?<box>(?P<body>{_BODY})</box>"
    rf"|(?:<\|object_ref_start\|>(?P<name2>{_NAME})<\|object_ref_end\|>\s?)?"
    rf"<\|box_start\|>(?P<body2>{_BODY})<\|box_end\|>"
)
_IMAGE_NUMBER: Final = re.compile(r"\bImage-([1-9][0-9]{0,2})\b", re.ASCII)


class Box(NamedTuple):
    """Corners in thousandths of the picture's width and height, from its upper left."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Region:
    """What an answer points at: its name, empty if it has none, and where it is.

    `image` is the k of the last "Image-k" that the answer names before it; None if it names none.
    """

    name: str
    boxes: tuple[Box, ...]
    image: int | None = None


def split(answer: str) -> list[str | Region]:
    """Cut an answer into text and regions, in order; joined texts are the rest, word for word."""
    parts: list[str | Region] = []
    told, room, image = 0, MAX_BOXES, None
    for match in _REGION.finditer(answer):
        boxes = _boxes(match["body"] or match["body2"])
        if not 0 < len(boxes) <= room:
            continue
        for number in _IMAGE_NUMBER.finditer(answer, told, match.start()):
            image = int(number[1])
        if match.start() > told:
            parts.append(answer[told : match.start()])
        name = match["name"] or match["name2"] or ""
        parts.append(Region(_name(name), boxes, image))
        told = match.end()
        room -= len(boxes)
    if told < len(answer):
        parts.append(answer[told:])
    return parts


def regions(answer: str) -> list[Region]:
    """All regions of an answer."""
    return [part for part in split(answer) if isinstance(part, Region)]


def plain(answer: str, *, growing: bool = False) -> str:
    """Return an answer with each region as its name alone.

    Args:
        answer: what the model wrote.
        growing: more may follow: then the beginning of a region at the end is not shown either,
            but for its name.
    """
    parts = split(answer)
    shown = "".join(part if isinstance(part, str) else part.name for part in parts[:-1])
    last = parts[-1] if parts else ""
    if isinstance(last, Region):
        return shown + last.name
    return shown + (_without_beginning(last) if growing else last)


def picture(messages: Sequence[ChatMessage], region: Region) -> str | None:
    """SHA-256 of the picture that a region of the answer to `messages` lies on.

    That is the k-th picture of the conversation if the answer says "Image-k", as templates number
    them when there are several; else the last one that the user sent. None if there is none: a
    video's frames do not count.
    """
    images = [
        part.sha256
        for message in messages
        if message.role in ("user", "prompt")
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    if not images:
        return None
    k = region.image
    return images[k - 1] if k is not None and k <= len(images) else images[-1]


def _name(written: str) -> str:
    return " ".join(written.split())


def _boxes(body: str) -> tuple[Box, ...]:
    """The boxes of a body; none if any of it is not as it must be."""
    if not (_LISTS.fullmatch(body) or _POINTS.fullmatch(body)):
        return ()
    values = list(map(float, _VALUE.findall(body)))
    boxes = [Box(*values[n : n + 4]) for n in range(0, len(values), 4)]
    right = all(0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000 for x1, y1, x2, y2 in boxes)
    return tuple(boxes) if right else ()


_FORMS: Final = (
    ("<ref>", "</ref>", "<box>", "</box>"),
    ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
)
_LONGEST: Final = MAX_NAME + MAX_BODY + 80


def _without_beginning(text: str) -> str:
    """Cut off the region that may begin at the end of a text, and leave its name."""
    start = max(0, len(text) - _LONGEST)
    while (start := text.find("<", start)) >= 0:
        for form in _FORMS:
            name = _begun(text[start:], *form)
            if name is not None:
                return text[:start] + name
        start += 1
    return text


def _begun(text: str, ref: str, end_ref: str, box: str, end_box: str) -> str | None:
    """Return the name so far if the whole text can be the beginning of a region, else None."""
    name = ""
    if ref.startswith(text) or box.startswith(text):
        return name
    if text.startswith(ref):
        written, mark, rest = text.removeprefix(ref).partition("<")
        if len(written) > MAX_NAME or (mark and not written):
            return None
        name = _name(written)
        text = mark + rest
        if end_ref.startswith(text):
            return name
        if not text.startswith(end_ref):
            return None
        text = text.removeprefix(end_ref)
        text = text[1:] if text[:1].isspace() else text
        if box.startswith(text):
            return name
    if not text.startswith(box):
        return None
    body, mark, rest = text.removeprefix(box).partition("<")
    fits = len(body) <= MAX_BODY and not set(body) - set("0123456789.,[]() \n\t")
    return name if fits and end_box.startswith(mark + rest) else None
