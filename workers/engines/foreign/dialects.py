"""What LLaVA's, InternVL's and FastChat's workers want to be sent for a request.

They differ in how a conversation and its pictures are written and in what the texts of the stream
begin with; docs/foreign.md has the table. What would change an answer and cannot be said in a
dialect is refused, what merely shapes the odds is left out. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from broker import cell
from broker.errors import InvalidRequest
from broker.messages import ChatMessage, GenerateRequest, Part, TextPart, VideoPart
from workers.engines.foreign import conversations, pictures
from workers.engines.foreign.conversations import MARK, Conversation, plain
from workers.engines.foreign.echoed import EchoedPrompt
from workers.templates import DEFAULT_MARK, TEMPLATES, Template, Turn, choose, reading

Dialect = Literal["llava", "internvl", "fastchat", "heliograph"]

LLAVA_MAX_TOKENS: Final = 1024
"""LLaVA's workers generate no more, whatever they are asked for."""
INTERNVL_MAX_TOKENS: Final = 4096
"""What InternVL's own app asks for at most."""
FASTCHAT_MAX_TOKENS: Final = 1024
INTERNVL_TILES: Final = 12

_UNKNOWN_STOP = "</s>"
"""LLaVA's worker fails without a stop string; this one ends no answer that has not ended."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request in a dialect: the payload, and how to read what comes back.

    `stop` ends the answer here, since the workers look for one string or none. `max_tokens` is what
    the worker will generate at most. `echoed` is set where texts begin with the prompt.
    """

    payload: dict[str, Any] = field(repr=False)
    stop: tuple[str, ...]
    max_tokens: int
    echoed: EchoedPrompt | None = None


def guess(model: str, fastchat: bool) -> Dialect:
    """Guess what a worker speaks by its model's name and the form of its registration."""
    if fastchat:
        return "fastchat"
    name = model.lower().replace("_", "-")
    theirs = "internvl" in name and "llava" not in name and "chat-v1" not in name
    return "internvl" if theirs else "llava"


def takes_pictures(model: str, dialect: Dialect) -> bool:
    """Whether a worker may be sent pictures; FastChat's do not say, so the model's name does."""
    names = ("llava", "vision", "internvl", "-vl")
    return dialect != "fastchat" or any(part in model.lower() for part in names)


async def write(
    dialect: Dialect,
    request: GenerateRequest,
    images: Mapping[str, bytes],
    max_pixels: int,
    conversation: Conversation | None = None,
) -> Call:
    """Write a request for a worker.

    Args:
        dialect: what it speaks, other than `heliograph`.
        request: what is asked; the path has this cell.
        images: bytes of its pictures by SHA-256.
        max_pixels: what a picture may have.
        conversation: FastChat's template, if the worker told one.

    Raises:
        InvalidRequest: the dialect cannot say it, or a picture is damaged.
    """
    _refuse_unspeakable(dialect, request)
    request = _translated(dialect, request, conversation)
    mode = request.sampling.image_process_mode
    if dialect == "llava":
        mode = mode or "Default"  # as its own client does; others take pictures as they are
    encoded = await pictures.encode(request.images, images, mode, max_pixels)
    match dialect:
        case "internvl":
            return _internvl(request, encoded)
        case "fastchat":
            return _fastchat(request, encoded, conversation)
        case _:
            return _llava(request, encoded)


def _translated(
    dialect: Dialect, request: GenerateRequest, conversation: Conversation | None
) -> GenerateRequest:
    """Read a ready prompt back into messages, where the worker expects to be told otherwise."""
    if not is_ready(request.messages):
        return request
    found = reading.read(request.messages[0].content)
    if found is None:
        return request
    template, messages = found
    if dialect == "internvl" or conversation or template != _template(request.model):
        return request.model_copy(update={"messages": messages})
    return request


def _refuse_unspeakable(dialect: Dialect, request: GenerateRequest) -> None:
    sampling = request.sampling
    asked = {
        "logprobs": sampling.logprobs is not None,
        "logit_bias": bool(sampling.logit_bias),
        "min_tokens": sampling.min_tokens > 0,
        "ignore_eos": sampling.ignore_eos,
        "stop_token_ids": bool(sampling.stop_token_ids) and dialect != "fastchat",
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise InvalidRequest(
                f"The worker of model {request.model!r} cannot do {name}. Leave it out.", param=name
            )


def _common(request: GenerateRequest, max_tokens: int) -> dict[str, Any]:
    return {
        "model": request.model,
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "max_new_tokens": max_tokens,
        cell.FIELD: list(request.path),
    }


def _llava(request: GenerateRequest, encoded: list[str]) -> Call:
    template = _template(request.model)
    prompt = _prompt(template, request.messages, DEFAULT_MARK)
    stop = _stops(request, template)
    max_tokens = min(request.sampling.max_tokens or LLAVA_MAX_TOKENS, LLAVA_MAX_TOKENS)
    payload = {
        **_common(request, request.sampling.max_tokens or LLAVA_MAX_TOKENS),
        "prompt": prompt,
        "stop": stop[0] if stop else _UNKNOWN_STOP,
        "images": encoded,
    }
    return Call(payload, stop, max_tokens, EchoedPrompt(prompt))


def _internvl(request: GenerateRequest, encoded: list[str]) -> Call:
    max_tokens = request.sampling.max_tokens or INTERNVL_MAX_TOKENS
    payload = {
        **_common(request, max_tokens),
        "prompt": _roles(request, encoded),
        "max_input_tiles": request.sampling.max_input_tiles or INTERNVL_TILES,
        "repetition_penalty": request.sampling.repetition_penalty,
    }
    return Call(payload, request.sampling.stop, max_tokens)


def _fastchat(
    request: GenerateRequest, encoded: list[str], conversation: Conversation | None
) -> Call:
    ids: list[int] = []
    if conversation is None or is_ready(request.messages):
        template = _template(request.model)
        prompt = _prompt(template, request.messages, MARK)
        stop = _stops(request, template)
    else:
        prompt = conversations.render(conversation, request.messages)
        stop = (*conversation.stop, *request.sampling.stop)
        ids = conversation.stop_token_ids or []
    max_tokens = request.sampling.max_tokens or FASTCHAT_MAX_TOKENS
    payload = {
        **_common(request, max_tokens),
        "prompt": prompt,
        "echo": False,
        "stop": list(stop),
        "stop_token_ids": [*ids, *request.sampling.stop_token_ids],
        "top_k": request.sampling.top_k or -1,
        "repetition_penalty": request.sampling.repetition_penalty,
        "presence_penalty": request.sampling.presence_penalty,
        "frequency_penalty": request.sampling.frequency_penalty,
    }
    if encoded:
        payload["images"] = encoded
    return Call(payload, stop, max_tokens)


def _template(model: str) -> Template:
    """The template that the originals' own servers would take for a model of that name."""
    return choose(model) or TEMPLATES["vicuna_v1"]


def _stops(request: GenerateRequest, template: Template) -> tuple[str, ...]:
    own = () if is_ready(request.messages) or not template.stop else (template.stop,)
    return (*own, *request.sampling.stop)


def is_ready(messages: Sequence[ChatMessage]) -> bool:
    """Whether the conversation is a prompt that a template wrote already."""
    return len(messages) == 1 and messages[0].role == "prompt"


def _prompt(template: Template, messages: Sequence[ChatMessage], mark: str) -> str:
    """Write a conversation, or pass on a prompt that is ready."""
    if is_ready(messages):
        return "".join(_written(part, mark) for part in messages[0].content)
    return template.render([_turn(message) for message in messages], mark=mark)


def _written(part: Part, mark: str) -> str:
    if isinstance(part, TextPart):
        return plain(part.text)
    return mark * (len(part.frames) if isinstance(part, VideoPart) else 1)


def _turn(message: ChatMessage) -> Turn:
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": plain(part.text)})
        elif isinstance(part, VideoPart):
            parts += ({"type": "image", "frame": n + 1} for n in range(len(part.frames)))
        else:
            parts.append({"type": "image"})
    return {"role": message.role, "content": parts}


def _roles(request: GenerateRequest, encoded: list[str]) -> list[dict[str, Any]]:
    """InternVL's conversation: the system message, then user and assistant in turn."""
    messages = request.messages
    if is_ready(messages):
        raise InvalidRequest(
            f"The worker of model {request.model!r} takes conversations, and the prompt is in no "
            "known template's form. Send messages with roles.",
            param="prompt",
        )
    system = _template(request.model).system
    if messages and messages[0].role == "system":
        system, messages = plain(messages[0].text), messages[1:]
    told = ["user" if place % 2 == 0 else "assistant" for place in range(len(messages))]
    if not messages or [each.role for each in messages] != told or told[-1] != "user":
        raise InvalidRequest(
            f"The worker of model {request.model!r} takes user and assistant messages in turn, the "
            "last one the user's, and at most a system message before.",
            param="messages",
        )
    waiting = iter(encoded)
    rows: list[dict[str, Any]] = [{"role": "system", "content": system}]
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": plain(message.text)}
        if message.images:
            if message.role != "user":
                raise InvalidRequest("Send images in user messages only.", param="messages")
            row["image"] = [next(waiting) for _ in message.images]
        rows.append(row)
    return rows
