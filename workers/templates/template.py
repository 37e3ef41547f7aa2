"""A conversation template by name: the words around turns, and where their pictures go.

The words are rendered by one of the Jinja files beside this module, in transformers' sandbox. Knows
nothing of tokens: what it is given as text may be placeholders for people's text (see
`workers.prompt`), and what it writes for a picture is the mark it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast

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
        # The table of templates is read without it, in half a second less.
        from transformers.utils.chat_template_utils import render_jinja_template

        given, turns = turns[:1], turns[1:]
        if not given or given[0]["role"] != "system":
            given, turns = [], given + turns
        if any(turn["role"] == "system" for turn in turns):
            raise InvalidRequest(
                "The model's chat template takes one system message, before all others.",
                param="messages",
            )
        rendered, _ = cast(Any, render_jinja_template)(
            [list(self._place_images(turns, mark))],
            chat_template=_source(self.style),
            add_generation_prompt=add_generation_prompt,
            system=_text(given[0]) if given else self.system,
            roles={"system": self.system_role, "user": self.user, "assistant": self.assistant},
            seps={"user": self.sep, "assistant": self.sep2},
        )
        text: str = rendered[0]
        return text

    def _place_images(self, turns: list[Turn], mark: str) -> Iterator[Turn]:
        total = sum(map(_images, turns))
        seen = 0
        for place, turn in enumerate(turns):
            count, text = _images(turn), _text(turn)
            marks = f"{mark}\n" * count
            if self.images == "numbered":
                if total > 1:
                    numbers = range(seen + 1, seen + count + 1)
                    marks = "".join(f"Image-{number}: {mark}\n" for number in numbers)
            elif count and place == 0:
                text = text.strip()
                if self.images == "tagged":
                    yield _turn("user", f"<Image>{mark}</Image>" * count)
                    yield _turn("assistant", "Received.")
                    marks = ""
            seen += count
            yield _turn(turn["role"], marks + text)


@cache
def _source(style: str) -> str:
    return files(__package__).joinpath(f"{style}.jinja").read_text("utf-8")


def _images(turn: Turn) -> int:
    return sum(part["type"] == "image" for part in turn["content"])


def _text(turn: Turn) -> str:
    return "".join(part["text"] for part in turn["content"] if part["type"] == "text")


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}
