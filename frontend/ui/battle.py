"""What one tab of the page "Side by side" remembers: two chats that go on with the same questions.

A question that both models answered becomes a turn of both chats when the next one is asked; one
that a model failed at is left out of both, so that the two always answer the same last message.
Nothing here knows Gradio, Redis or HTML.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from broker.errors import (
    ContextLengthExceeded,
    ErrorBody,
    InvalidRequest,
    NoLiveWorker,
    QueueTimeout,
)
from broker.messages import (
    ChatMessage,
    GenerateRequest,
    ImagePart,
    ModelInfo,
    Part,
    Role,
    TextPart,
)

Side = Literal["left", "right"]
SIDES: Final[tuple[Side, Side]] = ("left", "right")
Phase = Literal["empty", "answering", "answered", "failed", "voted"]

_draw = random.SystemRandom()


@dataclass(slots=True)
class Contestant:
    """One side: its model, the turns before the last question, and how that is answered.

    `failed` says that no more of the answer comes and that it is none to be compared.
    """

    model: str
    turns: tuple[ChatMessage, ...] = ()
    job: GenerateRequest | None = None
    text: str = ""
    has_ended: bool = False
    failed: bool = False

    @property
    def job_id(self) -> str:
        """The id of the last question's job; empty if it could not be sent."""
        return self.job.id if self.job else ""

    def begin(self, job: GenerateRequest) -> None:
        """Have the last question answered by a job."""
        self.job, self.text, self.has_ended, self.failed = job, "", False, False

    def end(self, *, failed: bool) -> None:
        """No more of the answer comes."""
        self.has_ended, self.failed = True, failed


@dataclass(slots=True)
class Battle:
    """The state of one tab; `contestants` are empty before the first question.

    `hidden` says that the names of the models are not to be told.
    """

    contestants: dict[Side, Contestant] = field(default_factory=dict)
    question: ChatMessage | None = None
    hidden: bool = False
    voted: bool = False

    @property
    def phase(self) -> Phase:
        """What the last question has come to."""
        sides = self.contestants.values()
        if self.question is None:
            return "empty"
        if not all(side.has_ended for side in sides):
            return "answering"
        if any(side.failed for side in sides):
            return "failed"
        return "voted" if self.voted else "answered"

    @property
    def jobs(self) -> list[str]:
        """Ids of the jobs under way."""
        return [side.job_id for side in self.contestants.values() if not side.has_ended]

    def next(self, text: str, images: Sequence[str]) -> Battle:
        """The battle with another question: words and pictures (SHA-256 each), pictures first."""
        parts: list[Part] = [ImagePart(sha256=sha) for sha in images]
        if text:
            parts.append(TextPart(text=text))
        return self._asking(ChatMessage(role="user", content=tuple(parts)), self._answered())

    def again(self) -> Battle:
        """The battle with the last question, not answered yet."""
        turns = {name: side.turns for name, side in self.contestants.items()}
        return self._asking(self.question, turns)

    def _answered(self) -> dict[Side, tuple[ChatMessage, ...]]:
        if self.question is None or self.phase == "failed":
            return {name: side.turns for name, side in self.contestants.items()}
        return {name: self.spoken(name) for name in self.contestants}

    def _asking(
        self, question: ChatMessage | None, turns: dict[Side, tuple[ChatMessage, ...]]
    ) -> Battle:
        contestants = {
            name: Contestant(side.model, turns[name]) for name, side in self.contestants.items()
        }
        return replace(self, contestants=contestants, question=question, voted=False)

    def asked(self, side: Side) -> tuple[ChatMessage, ...]:
        """What a side's model is asked: its chat up to the last question."""
        return (*self.contestants[side].turns, *([self.question] if self.question else []))

    def spoken(self, side: Side) -> tuple[ChatMessage, ...]:
        """A side's whole chat, its answer as far as it has come."""
        text = self.contestants[side].text
        return (*self.asked(side), *([_message("assistant", text)] if text else []))


def _message(role: Role, text: str) -> ChatMessage:
    return ChatMessage(role=role, content=(TextPart(text=text),))


def drawable(models: Iterable[ModelInfo], groups: Iterable[str]) -> list[ModelInfo]:
    """Models that may be drawn: those with a ready worker. Groups are none, their models are."""
    apart = set(groups)
    return [info for info in models if info.ready and info.name not in apart]


def draw(ready: Sequence[ModelInfo], *, sees: bool) -> tuple[str, str]:
    """Draw two different models, each pair and order as likely as any other.

    Args:
        ready: those to draw from.
        sees: whether they have to read pictures.

    Raises:
        NoLiveWorker: there are fewer than two.
    """
    able = [info.name for info in ready if info.images or not sees]
    if len(able) < 2:
        raise NoLiveWorker(too_few(len(able), sees=sees), param="model")
    left, right = _draw.sample(able, 2)
    return left, right


def too_few(count: int, *, sees: bool = False) -> str:
    """Why there is no battle."""
    which = "ready models that read pictures" if sees else "ready models"
    served = {0: "there is none", 1: "there is one"}[count]
    return (
        f"A battle needs two {which}, and {served} at the moment. Start workers with different "
        "--model-path; this page notices them within seconds."
    )


def choose(left: str | None, right: str | None) -> tuple[str, str]:
    """Take two models by name.

    Raises:
        InvalidRequest: one is missing, or they are the same.
    """
    if not left or not right:
        raise InvalidRequest("Choose a model for each side.", param="model")
    if left == right:
        raise InvalidRequest(
            "Choose two different models: one that is compared with itself says nothing.",
            param="model",
        )
    return left, right


_WHY: Final = {
    ContextLengthExceeded.code: "This model cannot hold so long a chat. Ask less, or begin anew.",
    NoLiveWorker.code: "No worker of this model is alive any more.",
    QueueTimeout.code: "No worker of this model took the message in time.",
}


def masked(error: ErrorBody) -> ErrorBody:
    """An error in words of ours: a model's own may tell which it is."""
    what = "cannot answer this message" if error.status < 429 else "failed"
    sentence = f"This model {what}; more is not told while names are hidden."
    return replace(error, message=_WHY.get(error.code, sentence))
