"""Prompts for FastChat's workers, by the conversation template that a worker itself tells.

Written for the separator styles below, character by character as FastChat has them; for others
there is no prompt, and the caller chooses a template by the model's name. The template comes from a
stranger: it is checked, and nothing in it is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from broker.errors import InvalidRequest
from broker.messages import ChatMessage, TextPart, pictures
from workers.templates import DEFAULT_MARK

MARK: Final = "$$<image>$$"
"""Stands for a picture; the pictures of a turn come before its text."""
_BROKEN_MARK = "<image >"


@dataclass(frozen=True, slots=True)
class _Style:
    """How parts are put together; `{end}` is `sep`, or in turn `sep` and `sep2` where `two`.

    `needs` says what must not be empty for the head to be written.
    """

    head: str
    turn: str
    open: str
    two: bool = False
    needs: str = ""
    start: str = ""


_COLON = _Style("{system}{sep}", "{role}: {text}{end}", "{role}:")
_STYLES = {
    1: _COLON,
    2: _Style(_COLON.head, _COLON.turn, _COLON.open, two=True),
    3: _Style(_COLON.head, _COLON.turn, "{role}: "),
    4: _Style("{system}", "{role}{text}{end}", "{role}"),
    5: _Style("{system}", "{role}{text}{end}", "{role}", two=True),
    6: _Style("{system}{sep}", "{role}\n{text}{end}", "{role}\n", needs="system"),
}
"""By number, as far as all of FastChat's versions have the same; `_style` knows more."""
_LLAMA_2 = 7
_LLAMA_3_ROLE = "<|start_header_id|>{role}<|end_header_id|>\n\n"
_LLAMA_3 = _Style(
    "{system}",
    _LLAMA_3_ROLE + "{stripped}<|eot_id|>",
    _LLAMA_3_ROLE,
    needs="message",
    start="<|begin_of_text|>",
)
_CHATML = _Style("{system}{sep}\n", "{role}\n{text}{end}\n", "{role}\n", needs="system")
_GEMMA_ROLE = "<start_of_turn>{role}\n"
_GEMMA = _Style("", _GEMMA_ROLE + "{text}{end}", _GEMMA_ROLE, start="<bos>")


class Conversation(BaseModel):
    """A template as `/worker_get_conv_template` tells it."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    system_template: str = "{system_message}"
    system_message: str = ""
    roles: list[str]
    messages: list[list[str | None]] = []
    sep_style: int
    sep: str | None = None
    sep2: str | None = None
    stop_str: str | list[str] | None = None
    stop_token_ids: list[int] | None = None

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        if isinstance(self.stop_str, str):
            return (self.stop_str,)
        return tuple(self.stop_str or ())


def read(reply: dict[str, Any]) -> Conversation | None:
    """Read a worker's reply; None if it is no template, or of a style that is not written here."""
    try:
        found = Conversation.model_validate(reply.get("conv"))
    except ValidationError:
        return None
    if len(found.roles) < 2:
        return None
    return found if found.sep_style == _LLAMA_2 or _style(found) else None


def _style(template: Conversation) -> _Style | None:
    """The style; above 7 the numbers differ between versions, so the words themselves tell it."""
    if template.sep_style <= _LLAMA_2:
        return _STYLES.get(template.sep_style)
    if template.sep_style in (9, 10) and template.roles[0].startswith("<|") and not template.sep2:
        return _CHATML
    if "<|start_header_id|>" in template.system_template:
        return _LLAMA_3
    return _GEMMA if (template.sep or "").startswith("<end_of_turn>") else None


def render(template: Conversation, messages: tuple[ChatMessage, ...]) -> str:
    """Write a conversation up to where the answer begins.

    Raises:
        InvalidRequest: a system message stands behind another message.
    """
    message = template.system_message
    if messages and messages[0].role == "system":
        message, messages = messages[0].text, messages[1:]
    if any(each.role == "system" for each in messages):
        raise InvalidRequest(
            "The model's worker takes one system message, before all others.", param="messages"
        )
    turns = [(each[0] or "", each[1] or "") for each in template.messages if len(each) == 2]
    turns += [(template.roles[each.role == "assistant"], text_of(each)) for each in messages]
    system = template.system_template.replace("{system_message}", message)
    style = _style(template)
    if style is None:
        return _render_llama_2(template, system if message else "", turns)
    return _render(template, style, system, message, turns)


def text_of(message: ChatMessage) -> str:
    """A turn's text behind a mark for each of its pictures, which text itself cannot imitate."""
    marks = "".join(MARK for part in message.content for _ in pictures(part))
    return marks + "".join(
        plain(part.text) for part in message.content if isinstance(part, TextPart)
    )


def plain(text: str) -> str:
    """Text in which no mark of a picture stands: the worker would look for a picture."""
    return text.replace(DEFAULT_MARK, _BROKEN_MARK)


def _render(
    template: Conversation, style: _Style, system: str, message: str, turns: list[tuple[str, str]]
) -> str:
    needed = {"": True, "system": bool(system), "message": bool(message)}[style.needs]
    head = style.head.format(system=system, sep=template.sep or "") if needed else ""
    ends = (template.sep or "", (template.sep2 if style.two else template.sep) or "")
    told = [
        style.turn.format(role=role, text=text, stripped=text.strip(), end=ends[place % 2])
        for place, (role, text) in enumerate(turns)
    ]
    return style.start + head + "".join(told) + style.open.format(role=template.roles[1])


def _render_llama_2(template: Conversation, system: str, turns: list[tuple[str, str]]) -> str:
    ends = (template.sep or "", template.sep2 or "")
    told = [
        f"{text} " if place == 0 else f"{template.roles[place % 2]} {text}{ends[place % 2]}"
        for place, (_, text) in enumerate(turns)
    ]
    return (system or "[INST] ") + "".join(told) + template.roles[len(turns) % 2]
