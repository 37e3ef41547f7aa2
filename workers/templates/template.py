"""A conversation template by name: the words around turns, and where their pictures go.

The words are rendered by one of the Jinja files beside this module, without transformers, which is
slow to import. Knows nothing of tokens: what it is given as text may be placeholders for people's
text (see `workers.prompt`), and what it writes for a picture is the mark it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NoReturn

import jinja2
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from broker.errors import InvalidRequest

Turn = dict[str, Any]
"""A message for a template: `role`, and `content` as a string or a list of parts."""

DEFAULT_MARK = "<image>"


@dataclass(frozen=True, slots=True)
class Template:
    """What a conversation of one model family looks like.

    `sep` stands behind the system message and the user's turns, `sep2` behind the assistant's.
    `style` is the Jinja file, `stop` the text that ends an answer. Pictures stand in front of their
    turn's text: `bare` as LLaVA has them, `tagged` within `<Image>` tags in a turn of their own,
    `numbered` as InternVL counts them over the conversation.
    """

    name: str
    style: Literal["colon", "marked", "llama_2", "plain"]
    system: str
    user: str
    assistant: str
    sep: str
    sep2: str
    stop: str | None
    system_role: str = ""
    images: Literal["bare", "tagged", "numbered"] = "bare"

    def render(
        self, turns: list[Turn], add_generation_prompt: bool = True, mark: str = DEFAULT_MARK
    ) -> str:
        """Write a conversation whose turns are lists of parts, with `mark` for each picture.

        Raises:
            InvalidRequest: a system message stands behind another message.
            jinja2.TemplateError: the template does not accept the turns.
        """
        system, turns = self._split(turns)
        return _compiled(self.style).render(
            messages=list(self._place_images(turns, mark)),
            add_generation_prompt=add_generation_prompt,
            system=system,
            roles={"system": self.system_role, "user": self.user, "assistant": self.assistant},
            seps={"user": self.sep, "assistant": self.sep2},
        )

    def _split(self, turns: list[Turn]) -> tuple[str, list[Turn]]:
        """Take the system message off, or the template's own if there is none."""
        system = self.system
        if turns and turns[0]["role"] == "system":
            system, turns = _text(turns[0]), turns[1:]
        if any(turn["role"] == "system" for turn in turns):
            raise InvalidRequest(
                "The model's chat template takes one system message, before all others.",
                param="messages",
            )
        return system, turns

    def _place_images(self, turns: list[Turn], mark: str) -> Iterator[Turn]:
        """Write each turn's pictures in front of its text."""
        total = sum(map(_images, turns))
        seen = 0
        for place, turn in enumerate(turns):
            count, text = _images(turn), _text(turn)
            text = "".join(f"Frame-{n}: {mark}\n" for n in _frames(turn)) + text
            opens = count > 0 and place == 0 and self.images != "numbered"
            if opens and self.images == "tagged":
                yield _turn("user", f"<Image>{mark}</Image>" * count)
                yield _turn("assistant", "Received.")
                count = 0
            numbers = range(seen + 1, seen + count + 1)
            numbered = self.images == "numbered" and total > 1
            marks = (f"Image-{n}: {mark}\n" if numbered else f"{mark}\n" for n in numbers)
            yield _turn(turn["role"], "".join(marks) + (text.strip() if opens else text))
            seen += count


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


@cache
def _compiled(style: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(files(__package__).joinpath(f"{style}.jinja").read_text("utf-8"))


def _images(turn: Turn) -> int:
    return sum(part["type"] == "image" and "frame" not in part for part in turn["content"])


def _frames(turn: Turn) -> list[int]:
    return [part["frame"] for part in turn["content"] if "frame" in part]


def _text(turn: Turn) -> str:
    return "".join(part["text"] for part in turn["content"] if part["type"] == "text")


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}
