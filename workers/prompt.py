"""Conversations to token ids, by a chat template, so that text stays text.

Nobody's words reach the template: it renders placeholders, and only what the template itself wrote
may become a control token (`<|im_end|>`, `<image>`, `<think>`); see `text_encoder`. For ordinary
text the ids are those of transformers' `apply_chat_template`. The template is the checkpoint's own
or one of `workers.templates`. A ready prompt is a template's text as a whole, as whoever sent it
says, unless it is translated. Knows nothing of tensors, and of pictures only where they stand.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from broker.errors import InvalidRequest
from broker.messages import ChatMessage, TextPart, VideoPart, ready_prompt
from workers.ready import write_ready
from workers.templates import DEFAULT_MARK, Template, Turn, reading
from workers.text_encoder import Piece, TextEncoder

log = logging.getLogger(__name__)

FALLBACK_STOP = "\nUser:"
"""Ends an answer of a checkpoint without a chat template, see `_render_plainly`."""

_PLACEHOLDER = "\ue000{}\ue001"
_PLACEHOLDERS = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's ids, in the runs between its pictures: one run more than there are pictures.

    `stop` are texts that end an answer to it, where no control token does.
    """

    runs: tuple[tuple[int, ...], ...]
    stop: tuple[str, ...] = ()


class PromptBuilder:
    """Builds prompts for one checkpoint. Safe to use from several threads.

    A template as text is the checkpoint's own; without any, a conversation is `User: ...` lines.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | Template | None,
        image_token: str | None = None,
        image_frame: tuple[str, str] = ("", ""),
    ) -> None:
        """Take a checkpoint's tokenizer, template, and what it writes for and around a picture."""
        self._tokenizer = tokenizer
        self._template = template
        self._image_token = image_token
        self._image_frame = image_frame
        self._encoder = TextEncoder(tokenizer, image_token)
        self._prefixed = not isinstance(template, str)  # checkpoints' templates write it themselves
        self._wants_parts = image_token is not None and self._takes_parts()
        self._image_marks = self._find_marks()
        self.stop = self._stop()

    def translate(self, messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
        """Read a ready prompt back into role messages if another model's template wrote it.

        What it is not read back from, or the checkpoint's own template might have written, stays
        the ready prompt that it is; so do role messages.

        Raises:
            InvalidRequest: a ready prompt is not alone.
        """
        prompt = ready_prompt(messages)
        found = reading.read(prompt.content) if prompt else None
        if found is None or self._writes_as(found[0]):
            return messages
        log.debug("a ready prompt was read as %s, to be written anew", found[0].name)
        return found[1]

    def _writes_as(self, template: Template) -> bool:
        """Whether this checkpoint's turns look as a template writes them."""
        written = reading.form(template)
        assert written is not None
        if self._encoder.has_control(written.user[0] + written.assistant[0]):
            return True
        if not isinstance(self._template, str):
            return self._template == template
        return self._try_render([_user(_text("\ue000"))]).endswith(written.question("\ue000"))

    def build(self, messages: tuple[ChatMessage, ...]) -> Prompt:
        """Render and encode a conversation; a ready prompt is only encoded.

        Raises:
            InvalidRequest: the template does not accept the roles, or drops or adds a picture; a
                ready prompt is not alone, or has the model's image token in its text.
        """
        if ready := ready_prompt(messages):
            runs = self._encode_ready(self._write_ready(ready))
            return Prompt(tuple(tuple(run) for run in runs))
        runs = self._encoder.encode(write(messages, self._render_framed), self._prefixed)
        pictures = sum(len(message.images) for message in messages)
        if len(runs) - 1 != pictures:
            raise InvalidRequest(
                f"The model's chat template places {len(runs) - 1} of the conversation's "
                f"{pictures} images. Send images in user messages only.",
                param="messages",
            )
        return Prompt(tuple(tuple(run) for run in runs), self.stop)

    def text(self, messages: tuple[ChatMessage, ...]) -> str:
        """Render a conversation to what the model reads, each picture as the image token."""
        if ready := ready_prompt(messages):
            text = self._write_ready(ready)
            return self._encoder.prefix * self._lacks_prefix(text) + text
        prefix = self._encoder.prefix if self._prefixed else ""
        return prefix + as_text(write(messages, self._render_framed))

    def count(self, text: str) -> int:
        """Count the tokens of a text that a template wrote, with what the tokenizer puts before."""
        runs = self._encode_ready(text)
        return sum(map(len, runs)) + len(runs) - 1

    def _encode_ready(self, text: str) -> list[list[int]]:
        """Encode template text, which may have the tokenizer's own prefix already."""
        return self._encoder.encode([Piece(text)], self._lacks_prefix(text))

    def _lacks_prefix(self, text: str) -> bool:
        return not text.startswith(self._encoder.prefix)

    def _write_ready(self, ready: ChatMessage) -> str:
        return self._frame(write_ready(ready.content, self._image_token, self._image_marks))

    def end_of_turn(self) -> int | None:
        """Return the id of the control token that the template writes behind an answer, if any."""
        turns = [_user(_text("a")), {"role": "assistant", "content": [_text("\ue000")]}]
        rendered = self._try_render(turns, add_generation_prompt=False)
        return self._encoder.control_at(rendered.partition("\ue000")[2])

    def _find_marks(self) -> tuple[str, str]:
        """Return the control tokens that the checkpoint's template writes beside a picture."""
        if self._image_token is None:
            return "", ""
        turn = _user(_text("\ue000"), {"type": "image"}, _text("\ue001"))
        between = self._try_render([turn]).partition("\ue000")[2].partition("\ue001")[0]
        before, found, after = between.partition(self._image_token)
        return self._encoder.controls_beside(before, after) if found else ("", "")

    def _stop(self) -> tuple[str, ...]:
        """Texts that end an answer, where no control token does."""
        if self._template is None:
            return (FALLBACK_STOP,)
        if isinstance(self._template, str) or self.end_of_turn() is not None:
            return ()
        return (self._template.stop,) if self._template.stop else ()

    def _render_framed(self, turns: list[Turn]) -> str:
        return self._frame(self._render(turns))

    def _frame(self, text: str) -> str:
        if not self._image_token:
            return text
        return text.replace(self._image_token, self._image_token.join(self._image_frame))

    def _try_render(self, turns: list[Turn], add_generation_prompt: bool = True) -> str:
        """Render a conversation of ours; empty if the template does not accept it."""
        try:
            return self._render(turns, add_generation_prompt)
        except InvalidRequest:
            return ""

    def _render(self, turns: list[Turn], add_generation_prompt: bool = True) -> str:
        try:
            if isinstance(self._template, Template):
                mark = self._image_token or DEFAULT_MARK
                return self._template.render(turns, add_generation_prompt, mark)
            turns = [{**turn, "content": list(_spell_frames(turn))} for turn in turns]
            if not self._wants_parts:
                turns = [self._flatten(turn) for turn in turns]
            if self._template is None:
                return _render_plainly(turns)
            return self._render_own(self._template, turns, add_generation_prompt)
        except TemplateError as error:
            raise InvalidRequest(
                "The model's chat template does not accept this conversation. Most accept user "
                "and assistant messages in turn, some of them a system message before.",
                param="messages",
            ) from error

    def _render_own(self, template: str, turns: list[Turn], add_generation_prompt: bool) -> str:
        text = self._tokenizer.apply_chat_template(
            turns,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        assert isinstance(text, str)
        return text

    def _flatten(self, turn: Turn) -> Turn:
        words = (part.get("text", f"{self._image_token}\n") for part in turn["content"])
        return {"role": turn["role"], "content": "".join(words)}

    def _takes_parts(self) -> bool:
        """Whether the checkpoint's template takes a list of parts, or prints it as it is."""
        if not isinstance(self._template, str):
            return False
        turn = _user(_text("a"))
        try:
            return "'type'" not in self._render_own(self._template, [turn], True)
        except (TemplateError, TypeError):
            return False


def write(messages: tuple[ChatMessage, ...], render: Callable[[list[Turn]], str]) -> list[Piece]:
    """Render a conversation with placeholders for its texts, and put the texts back in place."""
    texts: list[str] = []
    turns = [
        {"role": message.role, "content": list(_parts(message, texts))} for message in messages
    ]
    return list(_pieces(render(turns), texts))


def as_text(pieces: list[Piece]) -> str:
    """Join pieces to the text that they are."""
    return "".join(piece.text for piece in pieces)


def _parts(message: ChatMessage, texts: list[str]) -> Iterator[dict[str, Any]]:
    for part in message.content:
        if isinstance(part, TextPart):
            yield _text(_placeholder(part, texts))
        elif isinstance(part, VideoPart):
            yield from ({"type": "image", "frame": n + 1} for n in range(len(part.frames)))
        else:
            yield {"type": "image"}


def _spell_frames(turn: Turn) -> Iterator[dict[str, Any]]:
    """Write a video as numbered pictures, for templates that know nothing of frames."""
    for part in turn["content"]:
        if "frame" not in part:
            yield part
            continue
        yield _text(f"Frame-{part['frame']}: ")
        yield {"type": "image"}
        yield _text("\n")


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


def _render_plainly(turns: list[Turn]) -> str:
    """Write a conversation for a checkpoint without a template, as `User: ...` lines."""
    lines = [f"{turn['role'].capitalize()}: {turn['content']}\n" for turn in turns]
    return "".join(lines) + "Assistant:"


def _user(*parts: dict[str, Any]) -> Turn:
    return {"role": "user", "content": list(parts)}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
