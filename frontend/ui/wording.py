"""The short lines under the chat: why one waits, how an answer ended, what went wrong.

Plain text and HTML of one line each; every value that comes from elsewhere is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from broker.conversation import Answer, Chat
from broker.errors import ErrorBody
from broker.events import START, End, SeenImage, Usage
from broker.feedback import Vote
from broker.messages import WorkerInfo
from frontend.line import Place
from frontend.ui.language import say

NO_MODEL = (
    "No model is being served at the moment. Start a worker, for instance with "
    "python -m workers; this page notices it within seconds."
)

VOTED: Final[dict[Vote, str]] = {
    "upvote": "you voted it up",
    "downvote": "you voted it down",
    "flag": "you flagged it",
}

_MEASURED_S = 0.05
"""Over a shorter time a speed says nothing: the words of one step come at once."""

_FEW = 2
"""Of so many pictures all is told at once; of more it would push the message's box away."""


def note(text: str) -> str:
    """A quiet line; screen readers are told when it changes."""
    return f'<p class="line" role="status">{escape(text)}</p>' if text else ""


def error(body: ErrorBody, job_id: str = "", *, is_kept: bool = False) -> str:
    """What happened, to which job, and what to do with a question that is kept, as a job's is."""
    job = say(" (job {job})", job=job_id) if job_id and job_id not in body.message else ""
    may_be_asked_again = body.status >= 429 and (is_kept or job_id)
    advice = " " + say("Regenerate tries again.") if may_be_asked_again else ""
    return f'<p class="line error" role="alert">{escape(body.message + job + advice)}</p>'


def missing(model: str | None, live: Sequence[str]) -> str:
    """What to know when the wanted model, or any at all, is not served."""
    if not live and not model:
        return note(say(NO_MODEL))
    if model and model not in live:
        return note(say("No worker serves {model} at the moment.", model=model))
    return ""


def waiting(place: Place | None, workers: Sequence[WorkerInfo]) -> str:
    """Why nothing has come yet: `workers` are the live ones of the model."""
    if not workers:
        return say("no worker serves this model any more, waiting for one")
    if all(info.state == "loading" for info in workers):
        progress = max(info.progress for info in workers)
        return say("the model is loading ({progress} %)", progress=progress)
    if place is None:
        return say("a worker is taking the question")
    ahead = place.ahead
    turn = say("queued, {ahead} ahead", ahead=ahead) if ahead else say("queued, next in line")
    return turn if place.eta_s is None else f"{turn}, {_about(place.eta_s)}"


def _about(eta_s: float) -> str:
    if eta_s < 90:
        return say("about {seconds} s", seconds=math.ceil(eta_s))
    return say("about {minutes} min", minutes=round(eta_s / 60))


def reading(attempt: int) -> str:
    """That a worker is at it, and has not begun to answer."""
    return say("reading the question") if attempt == 1 else say("another worker goes on")


def answering(attempt: int, tokens: int = 0, spent_s: float = 0.0) -> str:
    """That an answer is being written, and how fast after the first token."""
    at_it = say("answering") if attempt == 1 else say("another worker goes on")
    return " · ".join((at_it, *_speed(tokens, spent_s)))


def _speed(tokens: int, spent_s: float) -> tuple[str, ...]:
    if not tokens or spent_s < _MEASURED_S:
        return ()
    return (say("{speed:.0f} tokens/s", speed=tokens / spent_s),)


def no_redis() -> str:
    """Why nothing is known of the queue."""
    return say("Redis does not answer, waiting for it")


def last(chat: Chat) -> str:
    """The line of a chat as it is found: how its last answer ended, and the vote on it."""
    answer = chat.last
    if answer is None:
        return ""
    if answer.error:
        return error(answer.error, answer.job)
    if not (answer.finish and answer.usage and answer.timings):
        return note(answering(1))
    end = End(START, "", (), answer.finish, answer.usage, answer.timings)
    voted = [say(VOTED[answer.vote])] if answer.vote else []
    return note(" · ".join((ending(end), *voted))) + got(chat, answer.usage)


def got(chat: Chat, usage: Usage) -> str:
    """What the model got of the chat's pictures, those of the last question one by one."""
    if not usage.images:
        return ""
    count = len(chat.turns[-1].question.images)
    before = usage.images[: len(usage.images) - count]
    parts = []
    if before:
        told = _tokens(_sum(before))
        parts.append(say("{count} of earlier turns: {tokens}", count=len(before), tokens=told))
    for place, image in enumerate(usage.images[len(before) :], 1):
        which = say("picture {place}: ", place=place) if count > 1 else ""
        parts.append(which + _shape(image))
    summary = say(
        "The model got {tokens:,} tokens, {of_pictures:,} of them for pictures",
        tokens=usage.prompt_tokens,
        of_pictures=_sum(usage.images),
    )
    return (
        f'<details class="line"{" open" * (count <= _FEW)}><summary>{summary}</summary>'
        f"{' · '.join(parts)}</details>"
    )


def _sum(images: Sequence[SeenImage]) -> int:
    return sum(image.tokens for image in images)


def _shape(image: SeenImage) -> str:
    sent = say("{width} x {height} pixels", width=image.width, height=image.height)
    tile = f"{image.tile_width} x {image.tile_height}"
    if image.tiles == 1:
        sent += say(" as {tile}", tile=tile)
    elif image.tiles:
        sent += say(" as {tiles} tiles of {tile}", tiles=image.tiles, tile=tile)
    return say("{pixels}, {tokens}", pixels=sent, tokens=_tokens(image.tokens))


def _tokens(count: int) -> str:
    return say("1 token") if count == 1 else say("{count:,} tokens", count=count)


def said(answer: Answer) -> str:
    """Why an answer was voted on, or that it was."""
    given = ", ".join(map(say, answer.reason.split(", "))) if answer.reason else ""
    told = say("Your reasons: {reasons}", reasons=escape(given))
    reason = f'<p class="line">{told}</p>' if given else ""
    if answer.comment:
        words = escape(answer.comment)
        return f'{reason}<p class="line comment" dir="auto" tabindex="0">{words}</p>'
    if reason or not answer.vote:
        return reason
    return f'<p class="thanks" role="status">{say("Thanks, your vote is noted.")}</p>'


def ending(end: End) -> str:
    """Tokens, speed and, where it is not simply finished, why the answer ended."""
    count = end.usage.completion_tokens
    parts = []
    if count:
        spent_s = end.timings.total_s - end.timings.first_token_s
        parts += [_tokens(count), *_speed(count - 1, spent_s)]
        first_s = end.timings.first_token_s
        parts.append(say("first token after {seconds:.2f} s", seconds=first_s))
    if end.finish_reason == "length":
        parts.append(say("stopped at the token limit"))
    elif end.finish_reason == "cancelled":
        parts.append(say("stopped") if count else say("stopped before it began"))
    return " · ".join(parts)
