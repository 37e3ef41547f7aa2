"""Prompts back to conversations: the inverse of `Template.render`, for the templates of `table`.

LLaVA's and FastChat's frontends render a conversation themselves, by a template that they choose by
the model's name. What they wrote is taken apart here, so that the model's own template can write
it. `plain` has no inverse, as nothing marks its turns. Words that look like the end of a turn and
the beginning of the next are taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import cast

from broker.messages import ChatMessage, ImagePart, Part, Role, TextPart
from workers.templates.table import TEMPLATES
from workers.templates.template import Template

_SYSTEM = re.compile(r"<<SYS>>\n(.*?)\n<</SYS>>\n\n", re.DOTALL)
_Turns = list[tuple[Role, str]]


@dataclass(frozen=True, slots=True)
class Form:
    """What a template writes around a turn's content (`user`, `assistant`) and at the end.

    `gap` stands before each of the user's turns but the first.
    """

    user: tuple[str, str]
    assistant: tuple[str, str]
    tail: str
    gap: str = ""

    def question(self, text: str) -> str:
        """Write a user's turn that is to be answered."""
        return text.join(self.user) + self.tail


def form(template: Template) -> Form | None:
    """Return what a template writes around turns; None if that is too little to tell them by."""
    sep, sep2 = template.sep, template.sep2
    match template.style:
        case "colon":
            user, assistant = f"{template.user}: ", f"{template.assistant}: "
            return Form((user, sep), (assistant, sep2), f"{template.assistant}:")
        case "marked":
            return Form((template.user, sep), (template.assistant, sep2), template.assistant)
        case "llama_2":
            return Form(("[INST] ", " [/INST]"), (" ", f" {sep2}"), "", gap=sep)
        case "plain":
            return None


def read(parts: Iterable[Part]) -> tuple[Template, tuple[ChatMessage, ...]] | None:
    """Return the template that wrote a prompt, and the conversation; None if none of them did.

    Pictures in front of a turn's text lose their lines and numbers; others stay where they are. A
    system message is returned only if it is not the template's own. Of templates that differ in
    nothing else, it is the one whose own system message the prompt has.
    """
    parts = tuple(parts)
    texts = "".join(part.text for part in parts if isinstance(part, TextPart))
    mark = next(char for char in map(chr, range(0xE000, 0x110000)) if char not in texts)
    text = "".join(part.text if isinstance(part, TextPart) else mark for part in parts)
    found = [
        (template, *taken)
        for template in TEMPLATES.values()
        if (taken := _take_apart(template, text)) is not None
    ]
    if not found:
        return None
    template, system, turns = next((each for each in found if each[0].system == each[1]), found[0])
    turns = _untagged(turns, mark)
    if system not in ("", template.system):
        turns = [("system", system), *turns]
    pictures = (part for part in parts if isinstance(part, ImagePart))
    messages = (
        ChatMessage(role=role, content=tuple(_parts(content, mark, pictures)))
        for role, content in turns
    )
    return template, tuple(messages)


def _take_apart(template: Template, text: str) -> tuple[str, _Turns] | None:
    """Split a prompt into its system message and its turns, if the template wrote it."""
    written = form(template)
    if written is None or written.user[0] not in text or not text.endswith(written.tail):
        return None
    if not text.startswith(written.gap):
        text = written.gap + text
    head = _head(template).match(text)
    if head is None:
        return None
    system, place = head["system"] or "", head.end()
    turns: _Turns = []
    while place < len(text) - len(written.tail):
        found = _turn(written).match(text, place)
        if found is None:
            return None
        role = cast(Role, found.lastgroup)
        turns.append((role, found[role]))
        place = found.end()
    if not turns or (not written.tail and turns[-1][0] != "user"):
        return None
    if template.style == "llama_2" and (block := _SYSTEM.match(turns[0][1])):
        return block[1], [("user", turns[0][1][block.end() :]), *turns[1:]]
    return system, turns


@cache
def _head(template: Template) -> re.Pattern[str]:
    """What stands before the first turn; a system message may be left out."""
    written = form(template)
    assert written is not None
    user, assistant = map(re.escape, (written.gap + written.user[0], written.assistant[0]))
    if template.style == "llama_2":
        return re.compile(rf"(?P<system>)(?={user})")
    role, sep = re.escape(template.system_role), re.escape(template.sep)
    first = rf"(?={user}|{assistant})"
    return re.compile(rf"{first}|{role}(?P<system>.*?){sep}{first}", re.DOTALL)


@cache
def _turn(written: Form) -> re.Pattern[str]:
    """Match a turn, up to where the next one begins or the answer is to come."""
    opening = re.escape(written.gap + written.user[0]), re.escape(written.assistant[0])
    closing = re.escape(written.user[1]), re.escape(written.assistant[1])
    behind = rf"(?={opening[0]}|{opening[1]}|{re.escape(written.tail)}\Z)"
    return re.compile(
        rf"{opening[0]}(?P<user>.*?){closing[0]}{behind}"
        rf"|{opening[1]}(?P<assistant>.*?){closing[1]}{behind}",
        re.DOTALL,
    )


def _untagged(turns: _Turns, mark: str) -> _Turns:
    """Put pictures that have a first turn of their own, within tags, before the next one's text."""
    match turns:
        case [("user", shown), ("assistant", "Received."), ("user", asked), *others]:
            if re.fullmatch(f"(?:<Image>{mark}</Image>)+", shown):
                return [("user", f"{mark}\n" * shown.count(mark) + asked), *others]
    return turns


def _parts(content: str, mark: str, pictures: Iterator[ImagePart]) -> Iterator[Part]:
    """Put pictures back into a turn, without what templates write for those in front."""
    front = re.match(rf"(?:(?:Image-\d+: )?{mark}\n?)*", content)
    assert front is not None
    yield from (next(pictures) for _ in range(front[0].count(mark)))
    for place, text in enumerate(content[front.end() :].split(mark)):
        if place:
            yield next(pictures)
        if text:
            yield TextPart(text=text)
