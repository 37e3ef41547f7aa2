"""What crosses processes beside events: a request, and what a worker says of itself.

Both are checked when they are read. Nothing here knows how they are stored (`queues`, `registry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from broker.errors import InvalidRequest

Role = Literal["system", "user", "assistant", "prompt"]
"""`prompt` is a ready prompt: the only message, as a template wrote it, with its pictures."""
WorkerState = Literal["loading", "ready", "unavailable", "draining", "failed"]
"""`unavailable`: what computes for the worker does not answer, and it waits."""
ImageProcessMode = Literal["Default", "Crop", "Pad", "Resize"]

MAX_INPUT_TILES: Final = 64
"""The greatest `max_input_tiles` that a request may name."""


_SHA256 = r"^[0-9a-f]{64}$"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextPart(_Message):
    """Text, exactly as the person wrote it."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(_Message):
    """A picture by the SHA-256 of its uploaded bytes (64 hex digits); see `broker.images`."""

    type: Literal["image"] = "image"
    sha256: str = Field(pattern=_SHA256)


class VideoPart(_Message):
    """A video by the SHA-256 of each of its frames, which are stored as pictures, in order."""

    type: Literal["video"] = "video"
    frames: tuple[Annotated[str, Field(pattern=_SHA256)], ...] = Field(min_length=1)


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class ChatMessage(_Message):
    """One turn: text and pictures in the order they were given."""

    role: Role
    content: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The turn's text parts joined."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[str, ...]:
        """SHA-256 of each picture and each frame of a video, in order."""
        return tuple(sha for part in self.content for sha in pictures(part))


def pictures(part: Part) -> tuple[str, ...]:
    """Return the SHA-256 of each picture that a part shows."""
    if isinstance(part, VideoPart):
        return part.frames
    return (part.sha256,) if isinstance(part, ImagePart) else ()


def ready_prompt(messages: Sequence[ChatMessage]) -> ChatMessage | None:
    """Return the ready prompt that a conversation is, or None if it is one of role messages.

    Raises:
        InvalidRequest: a ready prompt stands beside other messages, or holds a video.
    """
    prompt = next((message for message in messages if message.role == "prompt"), None)
    if prompt is None:
        return None
    if len(messages) > 1:
        raise InvalidRequest(
            "A ready prompt is the whole conversation. Send it as the only message, or send "
            "messages by system, user and assistant.",
            param="messages",
        )
    if any(isinstance(part, VideoPart) for part in prompt.content):
        raise InvalidRequest(
            "A ready prompt takes text and images. Send a video's frames as images.",
            param="messages",
        )
    return prompt


TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class SamplingParams(_Message):
    """How tokens are drawn and when they end; the defaults change nothing.

    `temperature` 0 is greedy, the seed makes a draw repeatable, and `top_k` 0 is off. The
    repetition penalty looks at prompt and answer and divides or multiplies logits; presence and
    frequency penalty look at the answer and are subtracted. `logprobs` is how many of the likeliest
    tokens to tell with each token's own log-probability; None tells neither.

    The pictures of a turn share `max_input_tiles`; None leaves it to the model. All are shaped by
    `image_process_mode` first (see `workers.images`); None leaves them as they are.
    """

    max_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, le=2.0)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    logit_bias: dict[TokenId, float] = {}
    logprobs: int | None = Field(default=None, ge=0, le=20)
    seed: int = Field(default=0, ge=0, lt=2**63)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[TokenId, ...] = ()
    ignore_eos: bool = False
    max_input_tiles: int | None = Field(default=None, ge=1, le=MAX_INPUT_TILES)
    image_process_mode: ImageProcessMode | None = None


class GenerateRequest(_Message):
    """One answer to be generated: what a worker needs to know, and nothing about who asked.

    `path` has the ids of the cells that the request came through before this one.
    """

    id: str
    model: str
    messages: tuple[ChatMessage, ...]
    sampling: SamplingParams = SamplingParams()
    created_s: float
    path: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """SHA-256 of every picture of the conversation, in order, repeats included."""
        return tuple(sha for message in self.messages for sha in message.images)


class WorkerInfo(_Message):
    """What a worker says of itself in its heartbeat key; all of it is plain to redis-cli.

    Fields of a later version are passed over: workers and frontends are updated one by one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    model: str
    engine: str
    device: str
    host: str
    pid: int
    state: WorkerState
    reason: str = Field(default="", description="why it failed or is unavailable")
    progress: int = Field(default=0, ge=0, le=100, description="per cent of loading done")
    slots: int = 0
    running: int = 0
    waiting: int = 0
    speed: float = Field(default=0.0, description="tokens/s over the last seconds, measured")
    peak_speed: float = Field(default=0.0, description="tokens/s at best lately, measured")
    job_s: float = Field(default=0.0, description="seconds that a job holds its slot, measured")
    context_length: int = 0
    images: bool = False
    started_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that at least one live worker serves.

    `jobs_per_s` is how many jobs end when all slots are taken; 0 while none was measured.
    """

    name: str
    workers: int
    ready: int
    slots: int
    running: int
    queue_length: int
    context_length: int
    images: bool
    speed: float
    peak_speed: float
    started_s: float = field(default=0.0)
    jobs_per_s: float = field(default=0.0)
