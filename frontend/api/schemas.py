"""What a chat request may say: the fields, their types and their limits.

Types are strict: a number in quotes, a boolean for a number, NaN and infinity are errors. Fields
that are not known are ignored, except those that would change the meaning of the answer. What the
messages mean is left to `content`; whether the model exists to the service.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import ErrorDetails

from broker.errors import InvalidRequest
from broker.messages import MAX_INPUT_TILES, ImageProcessMode, SamplingParams
from broker.patience import MAX_PATIENCE_S
from broker.readers import check_rule
from frontend.api.body import decode
from frontend.api.errors import Unsupported

MAX_MESSAGES = 1_000
MAX_PARTS = 1_000
MAX_STOPS = 4
MAX_STOP_LENGTH = 1_000
MAX_VIDEO_FRAMES = 256
MAX_STOP_TOKENS = 128
MAX_BIASED_TOKENS = 1_024
MAX_TOKENS = 2**31 - 1
_SEEDS = 2**63


class Strict(BaseModel):
    """Base of what a client sends: types are strict, fields that are not known are ignored."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class Text(Strict):
    """A text part."""

    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """Where an image or a video is; only data URIs are accepted, which `content` checks."""

    url: str


class Image(Strict):
    """An image part."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Video(Strict):
    """A video part; `video_url` takes a data URI, as images do."""

    type: Literal["video_url"]
    video_url: ImageUrl


def _part_tag(part: Any) -> str:
    return f"<{part.get('type') if isinstance(part, dict) else None}>"


def text_tag(value: Any) -> str:
    """Tell a text from a list, for a field that may be either."""
    return "<text>" if isinstance(value, str) else "<list>"


# Tags in angle brackets never reach a client: `_param` takes them out of the path of an error.
_Part = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[Image, Tag("<image_url>")]
    | Annotated[Video, Tag("<video_url>")],
    Discriminator(_part_tag),
]
_Parts = Annotated[list[_Part], Field(min_length=1, max_length=MAX_PARTS), Tag("<list>")]
_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
_Stops = Annotated[list[_Stop], Field(max_length=MAX_STOPS), Tag("<list>")]
_MaxTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
_TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_Patience = Annotated[float, Field(gt=0, le=MAX_PATIENCE_S)]
_DIGITS = re.compile("0|[1-9][0-9]{0,9}")


class Message(Strict):
    """One turn as the client wrote it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Annotated[str, Tag("<text>")] | _Parts, Discriminator(text_tag)] | None = (
        None
    )
    tool_calls: Any = None


class StreamOptions(Strict):
    """How to stream."""

    include_usage: bool | None = None


class ChatRequest(Strict):
    """Body of POST /v1/chat/completions."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _MaxTokens | None = None
    max_completion_tokens: _MaxTokens | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: Annotated[dict[str, _Bias], Field(max_length=MAX_BIASED_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    seed: Annotated[int, Field(ge=-_SEEDS, lt=_SEEDS)] | None = None
    stop: Annotated[Annotated[_Stop, Tag("<text>")] | _Stops, Discriminator(text_tag)] | None = None
    stop_token_ids: Annotated[list[_TokenId], Field(max_length=MAX_STOP_TOKENS)] | None = None
    ignore_eos: bool | None = None
    max_input_tiles: Annotated[int, Field(ge=1, le=MAX_INPUT_TILES)] | None = None
    max_video_frames: Annotated[int, Field(ge=1, le=MAX_VIDEO_FRAMES)] | None = None
    image_process_mode: ImageProcessMode | None = None
    on_disconnect: str | None = None
    queue_timeout: _Patience | None = None
    wait_for_worker: _Patience | None = None
    n: int | None = None
    tools: Any = None
    functions: Any = None
    response_format: Any = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def sampling(self) -> SamplingParams:
        """The sampling parameters, with our defaults for what was not given."""
        given = {name: getattr(self, name) for name in _PASSED_ON}
        given |= {
            "max_tokens": self.token_limit,
            "top_k": max(self.top_k or 0, 0),
            "logit_bias": {int(key): bias for key, bias in (self.logit_bias or {}).items()},
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
            "seed": None if self.seed is None else repeatable(self.seed),
            "stop": (self.stop,) if isinstance(self.stop, str) else self.stop,
        }
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})

    @property
    def token_limit(self) -> int | None:
        """The most tokens an answer may have, by either name."""
        return self.max_completion_tokens or self.max_tokens


_PASSED_ON = (
    "min_tokens",
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stop_token_ids",
    "ignore_eos",
    "max_input_tiles",
    "image_process_mode",
)
"""Fields that mean the same to a worker, and have its default when they are not given."""


def repeatable(seed: int) -> int:
    """Map a client's seed to the service's, for which 0 means "any"."""
    return seed % (_SEEDS - 1) or _SEEDS - 1


def parse(body: bytes) -> ChatRequest:
    """Read a request's body.

    Raises:
        InvalidRequest: not JSON, a field is missing, of a wrong type or out of range.
        Unsupported: it asks for something that is not offered here.
    """
    try:
        request = ChatRequest.model_validate(decode(body))
    except ValidationError as error:
        raise explain(error.errors(include_url=False)[0]) from None
    _refuse_unsupported(request)
    _refuse_contradictions(request)
    return request


def _refuse_contradictions(request: ChatRequest) -> None:
    if request.on_disconnect is not None:
        check_rule(request.on_disconnect)
    for key in request.logit_bias or ():
        if not _DIGITS.fullmatch(key) or int(key) > MAX_TOKENS:
            raise InvalidRequest(
                f"logit_bias: keys are token ids, from 0 to {MAX_TOKENS}; {key[:40]!r} was sent.",
                param="logit_bias",
            )
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest(
            f"top_logprobs: logprobs must be true as well; top_logprobs {request.top_logprobs} "
            "was sent without it.",
            param="top_logprobs",
        )
    least, most = request.min_tokens or 0, request.token_limit
    if most is not None and least > most:
        raise InvalidRequest(
            f"min_tokens: it must be from 0 to the most tokens asked for, which is {most}; "
            f"{least} was sent.",
            param="min_tokens",
        )


def _refuse_unsupported(request: ChatRequest) -> None:
    if request.n not in (None, 1):
        raise Unsupported("n: only one answer per request is supported; send n=1.", param="n")
    for name in ("tools", "functions"):
        if getattr(request, name):
            raise _unsupported(name)
    form = request.response_format
    if form is not None and not (isinstance(form, dict) and form.get("type") == "text"):
        raise _unsupported("response_format")
    for index, message in enumerate(request.messages):
        if message.tool_calls:
            raise _unsupported(f"messages.{index}.tool_calls")


def _unsupported(param: str) -> Unsupported:
    return Unsupported(f"{param} is not supported here yet. Leave it out.", param=param)


_OBJECT = "input should be an object"
_IN_JSON = {"list_type": "input should be an array", "dict_type": _OBJECT, "model_type": _OBJECT}
"""What pydantic says in the words of Python."""


def explain(error: ErrorDetails) -> InvalidRequest:
    """Say in a sentence what pydantic found wrong, quoting nothing of it but a number."""
    param = _param(error["loc"])
    kind = error["type"]
    said = _IN_JSON.get(kind, error["msg"])
    if param is None:
        return InvalidRequest("The body must be one JSON object.")
    if kind == "missing":
        return InvalidRequest(f"{param} is required.", param=param)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return InvalidRequest(
            f"{param}.type must be 'text' or 'image_url'; no other content is supported.",
            param=f"{param}.type",
        )
    if kind == "list_type" and param.endswith(("content", "stop", "prompt")):
        return InvalidRequest(f"{param} must be a string or a list.", param=param)
    sent = error["input"]
    is_number = isinstance(sent, int | float) and abs(sent) < 1e15
    got = f"; {sent!r} was sent" if is_number else ""
    return InvalidRequest(f"{param}: {said[0].lower()}{said[1:]}{got}.", param=param)


def _param(loc: tuple[int | str, ...]) -> str | None:
    # A step may be a client's own word, a key of `logit_bias`.
    return ".".join(str(step)[:40] for step in loc if not str(step).startswith("<")) or None
