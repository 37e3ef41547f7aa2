"""Conversations to token ids, by the checkpoint's own chat template, so that text stays text.

Nobody's words reach the template: it renders placeholders, and only what the template itself wrote
may become a control token (`<|im_end|>`, `<image>`, `<think>`); see `text_encoder`. For ordinary
text the ids are those of transformers' `apply_chat_template`. Knows nothing of tensors, and of
pictures only where they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from broker.errors import InvalidRequest
from broker.messages import ChatMessage, ImagePart, TextPart
from workers.text_encoder import Piece, TextEncoder

FALLBACK_STOP = "\nUser:"
"""Ends an answer of a checkpoint without a chat template, see `_render_plainly`."""

_PLACEHOLDER = "\ue000{}\ue001"
_PLACEHOLDERS = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's ids, in the runs between its pictures: one run more than there are pictures."""

    runs: tuple[tuple[int, ...], ...]


class PromptBuilder:
    """Builds prompts for one checkpoint. Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None,
        image_token: str | None = None,
        image_frame: tuple[str, str] = ("", ""),
    ) -> None:
        """Take a checkpoint's tokenizer, template, and what it writes for and around a picture."""
        self._tokenizer = tokenizer
        self._template = template
        self._image_token = image_token
        self._image_frame = image_frame
        self._encoder = TextEncoder(tokenizer, image_token)
        self._wants_parts = image_token is not None and self._takes_parts()
        self.stop = () if template else (FALLBACK_STOP,)

    def build(self, messages: tuple[ChatMessage, ...]) -> Prompt:
        """Render and encode a conversation.

        Raises:
            InvalidRequest: the template does not accept the roles, or drops or adds a picture.
        """
        texts: list[str] = []
        rendered = self._render([self._blank(message, texts) for message in messages])
        if self._image_token:
            rendered = rendered.replace(
                self._image_token, self._image_token.join(self._image_frame)
            )
        runs = self._encoder.encode(_pieces(rendered, texts))
        pictures = sum(len(message.images) for message in messages)
        if len(runs) - 1 != pictures:
            raise InvalidRequest(
                f"The model's chat template places {len(runs) - 1} of the conversation's "
                f"{pictures} images. Send images in user messages only.",
                param="messages",
            )
        return Prompt(tuple(tuple(run) for run in runs))

    def end_of_turn(self) -> int | None:
        """Return the id of the control token that the template writes behind an answer, if any."""
        said = (("user", "a"), ("assistant", "\ue000"))
        turns = [
            {"role": role, "content": [_text(text)] if self._wants_parts else text}
            for role, text in said
        ]
        try:
            rendered = self._render(turns, add_generation_prompt=False)
        except InvalidRequest:
            return None
        return self._encoder.control_at(rendered.partition("\ue000")[2])

    def _blank(self, message: ChatMessage, texts: list[str]) -> dict[str, Any]:
        """Write a turn for the template, its texts replaced by placeholders and put in `texts`."""
        parts = list(_parts(message, texts))
        if self._wants_parts:
            return {"role": message.role, "content": parts}
        words = (part.get("text", f"{self._image_token}\n") for part in parts)
        return {"role": message.role, "content": "".join(words)}

    def _render(self, turns: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        if self._template is None:
            return _render_plainly(turns, self._encoder.prefix)
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except TemplateError as error:
            raise InvalidRequest(
                "The model's chat template does not accept this conversation. Most accept user "
                "and assistant messages in turn, some of them a system message before.",
                param="messages",
            ) from error
        assert isinstance(text, str)
        return text

    def _takes_parts(self) -> bool:
        """Whether the template takes a list of parts, rather than printing it as it is."""
        if self._template is None:
            return False
        try:
            return "'type'" not in self._render([{"role": "user", "content": [_text("a")]}])
        except (InvalidRequest, TypeError):
            return False


def _parts(message: ChatMessage, texts: list[str]) -> Iterator[dict[str, str]]:
    for part in message.content:
        if isinstance(part, ImagePart):
            yield {"type": "image"}
        else:
            yield _text(_placeholder(part, texts))


def _placeholder(part: TextPart, texts: list[str]) -> str:
    """Stand in for a text, blanks at its ends kept, because templates trim them or not."""
    core = part.text.strip()
    if not core:
        return part.text
    before, _, after = part.text.partition(core)
    texts.append(core)
    return before + _PLACEHOLDER.format(len(texts) - 1) + after


def _pieces(rendered: str, texts: list[str]) -> Iterator[Piece]:
    """Split a rendered template into its own text and people's text, put back in place."""
    for place, piece in enumerate(_PLACEHOLDERS.split(rendered)):
        from_people = place % 2 == 1
        yield Piece(texts[int(piece)] if from_people else piece, from_people)


def _render_plainly(turns: list[dict[str, Any]], prefix: str) -> str:
    """Write a conversation for a checkpoint without a template, as `User: ...` lines."""
    lines = [f"{turn['role'].capitalize()}: {turn['content']}\n" for turn in turns]
    return prefix + "".join(lines) + "Assistant:"


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
