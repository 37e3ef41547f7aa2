"""The short lines under the chat: why one waits, how an answer ended, what went wrong.

Plain text and HTML of one line each; every value that comes from elsewhere is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from broker.conversation import Answer, Chat
from broker.errors import ErrorBody
from broker.events import START, End, SeenImage, Usage
from broker.messages import WorkerInfo
from frontend.line import Place

NO_MODEL = (
    "No model is being served at the moment. Start a worker, for instance with "
    "python -m workers; this page notices it within seconds."
)

_MEASURED_S = 0.05
"""Over a shorter time a speed says nothing: the words of one step come at once."""

_FEW = 2
"""Of so many pictures all is told at once; of more it would push the message's box away."""


def note(text: str) -> str:
    """A quiet line; screen readers are told when it changes."""
    return f'<p class="line" role="status">{escape(text)}</p>' if text else ""


def error(body: ErrorBody, job_id: str = "") -> str:
    """What happened, to which job, and what to do."""
    job = f" (job {job_id})" if job_id and job_id not in body.message else ""
    advice = " Regenerate tries again." if body.status >= 429 else ""
    return f'<p class="line error" role="alert">{escape(body.message + job + advice)}</p>'


def missing(model: str | None, live: Sequence[str]) -> str:
    """What to know when the wanted model, or any at all, is not served."""
    if not live and not model:
        return note(NO_MODEL)
    if model and model not in live:
        return note(f"No worker serves {model} at the moment.")
    return ""


def waiting(place: Place | None, workers: Sequence[WorkerInfo]) -> str:
    """Why nothing has come yet: `workers` are the live ones of the model."""
    if not workers:
        return "no worker serves this model any more, waiting for one"
    if all(info.state == "loading" for info in workers):
        return f"the model is loading ({max(info.progress for info in workers)} %)"
    if place is None:
        return "a worker is taking the question"
    turn = f"queued, {place.ahead} ahead" if place.ahead else "queued, next in line"
    return turn if place.eta_s is None else f"{turn}, {_about(place.eta_s)}"


def _about(eta_s: float) -> str:
    return f"about {math.ceil(eta_s)} s" if eta_s < 90 else f"about {eta_s / 60:.0f} min"


def last(chat: Chat) -> str:
    """The line of a chat as it is found: how its last answer ended, and the vote on it."""
    answer = chat.last
    if answer is None:
        return ""
    if answer.error:
        return error(answer.error, answer.job)
    if not (answer.finish and answer.usage and answer.timings):
        return note("answering")
    end = End(START, "", (), answer.finish, answer.usage, answer.timings)
    votes = {"upvote": "you voted it up", "downvote": "you voted it down", "flag": "you flagged it"}
    voted = [votes[answer.vote]] if answer.vote else []
    return note(" · ".join((ending(end), *voted))) + got(chat, answer.usage)


def got(chat: Chat, usage: Usage) -> str:
    """What the model got of the chat's pictures, those of the last question one by one."""
    if not usage.images:
        return ""
    count = len(chat.turns[-1].question.images)
    before = usage.images[: len(usage.images) - count]
    parts = [f"{len(before)} of earlier turns: {_tokens(_sum(before))}"] if before else []
    for place, image in enumerate(usage.images[len(before) :], 1):
        parts.append(f"{f'picture {place}: ' if count > 1 else ''}{_shape(image)}")
    return (
        f'<details class="line"{" open" * (count <= _FEW)}><summary>The model got '
        f"{usage.prompt_tokens:,} tokens, {_sum(usage.images):,} of them for pictures</summary>"
        f"{' · '.join(parts)}</details>"
    )


def _sum(images: Sequence[SeenImage]) -> int:
    return sum(image.tokens for image in images)


def _shape(image: SeenImage) -> str:
    sent = f"{image.width} x {image.height} pixels"
    if image.tiles:
        tile = f"{image.tile_width} x {image.tile_height}"
        sent += f" as {tile}" if image.tiles == 1 else f" as {image.tiles} tiles of {tile}"
    return f"{sent}, {_tokens(image.tokens)}"


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count:,} tokens"


def said(answer: Answer) -> str:
    """Why an answer was voted on, or that it was."""
    reason = f'<p class="line">Your reasons: {escape(answer.reason)}</p>' if answer.reason else ""
    if answer.comment:
        words = escape(answer.comment)
        return f'{reason}<p class="line comment" dir="auto" tabindex="0">{words}</p>'
    if reason or not answer.vote:
        return reason
    return '<p class="thanks" role="status">Thanks, your vote is noted.</p>'


def ending(end: End) -> str:
    """Tokens, speed and, where it is not simply finished, why the answer ended."""
    count = end.usage.completion_tokens
    parts = []
    if count:
        parts.append(_tokens(count))
        spent_s = end.timings.total_s - end.timings.first_token_s
        if count > 1 and spent_s >= _MEASURED_S:
            parts.append(f"{(count - 1) / spent_s:.0f} tokens/s")
        parts.append(f"first token after {end.timings.first_token_s:.2f} s")
    if end.finish_reason == "length":
        parts.append("stopped at the token limit")
    elif end.finish_reason == "cancelled":
        parts.append("stopped" if count else "stopped before it began")
    return " · ".join(parts)
