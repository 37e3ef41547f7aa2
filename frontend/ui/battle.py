"""What may be done next in a battle, whom it draws, and what it tells of errors.

A question that a model failed at is left out of both chats when the next one is asked, so that the
two always answer the same last message. Nothing here knows Gradio, Redis or HTML.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from broker.errors import (
    ContextLengthExceeded,
    ErrorBody,
    InvalidRequest,
    NoLiveWorker,
    QueueTimeout,
)
from broker.messages import ModelInfo
from broker.side_by_side import Battle
from frontend.ui.conversation import Phase, phase
from frontend.ui.language import say

_draw = random.SystemRandom()


def phase_of(battle: Battle | None) -> Phase:
    """What the last question has come to: answered only if both have answered it."""
    if battle is None:
        return "empty"
    phases = {phase(chat) for chat in battle.conversations}
    order: tuple[Phase, ...] = ("answering", "failed", "answered", "empty")
    found = next(each for each in order if each in phases)
    return "voted" if found == "answered" and battle.vote else found


def ask_on(battle: Battle, text: str, images: tuple[str, ...]) -> Battle:
    """The battle with another question: words and pictures (SHA-256 each).

    Raises:
        ChatTooLarge: it has as many turns as it may have.
    """
    left_out = phase_of(battle) == "failed"
    return battle.with_each(lambda chat: (chat.undo() if left_out else chat).ask(text, images))


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
    which = say("ready models that read pictures") if sees else say("ready models")
    served = say("there is one") if count else say("there is none")
    return say(
        "A battle needs two {which}, and {served} at the moment. Start workers with different "
        "--model-path; this page notices them within seconds.",
        which=which,
        served=served,
    )


def choose(left: str | None, right: str | None) -> tuple[str, str]:
    """Take two models by name.

    Raises:
        InvalidRequest: one is missing, or they are the same.
    """
    if not left or not right:
        raise InvalidRequest(say("Choose a model for each side."), param="model")
    if left == right:
        raise InvalidRequest(
            say("Choose two different models: one that is compared with itself says nothing."),
            param="model",
        )
    return left, right


_WHY: Final = {
    ContextLengthExceeded.code: "This model cannot hold so long a chat. Ask less, or begin anew.",
    NoLiveWorker.code: "No worker of this model is alive any more.",
    QueueTimeout.code: "No worker of this model took the message in time.",
}

_REFUSED: Final = "This model cannot answer this message; more is not told while names are hidden."
_FAILED: Final = "This model failed; more is not told while names are hidden."


def masked(error: ErrorBody) -> ErrorBody:
    """An error in words of ours: a model's own may tell which it is."""
    sentence = _REFUSED if error.status < 429 else _FAILED
    return replace(error, message=say(_WHY.get(error.code, sentence)))
