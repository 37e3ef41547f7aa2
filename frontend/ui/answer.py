"""Follows one job and tells, at most twenty times a second, what the page should show.

Many events make one update: a fast model sends hundreds of deltas a second, and each update costs
the server and the browser some milliseconds. Knows neither Gradio nor HTML.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from broker.conversation import Answer
from broker.errors import ErrorBody, HeliographError, RedisUnavailable
from broker.events import START, Claim, Delta, End, EventId, Failed
from broker.messages import GenerateRequest
from frontend.service import Service
from frontend.ui import wording

UPDATE_S = 0.05
LONG_CHARACTERS = 2000
"""Code in an answer that is longer gets its colours when the answer has ended: a browser sets the
whole answer anew at each update, and colours are most of that work."""

PAINT_S = 0.1
"""Time for a browser to show the last words before it colours them."""

UPDATES_PER_S = 200
"""What one process should send to all its tabs together; Gradio can do about twice that (measured
on 2 busy cores), and new questions need the rest."""

CHARACTERS_PER_S = 100_000
"""What a browser is made to set anew, an answer as a whole each time: it needs 3 microseconds for
each on a slow machine, and what comes faster than that waits, the last words behind all of it."""

TICK_S = 0.1
LOOK_S = 1.0
"""How often a waiting reader looks at the queue; it also lets Gradio notice a closed tab."""


@dataclass(frozen=True, slots=True)
class Update:
    """The answer so far and a line about it; the last one has `end` or `error`."""

    text: str
    line: str = ""
    end: End | None = None
    error: ErrorBody | None = None

    def added_to(self, told: Answer) -> Answer:
        """An answer as it is with this."""
        finish = self.end.finish_reason if self.end else None
        return told.model_copy(update={"text": self.text, "finish": finish, "error": self.error})


def pace_s(streams: int, characters: int = 0) -> float:
    """Seconds between two updates of an answer so long when so many streams run at a time."""
    return max(UPDATE_S, streams / UPDATES_PER_S, characters / CHARACTERS_PER_S)


def follow(
    service: Service,
    request: GenerateRequest,
    streams: Callable[[], int] = lambda: 1,
    told: Answer | None = None,
) -> Iterator[Update]:
    """Yield updates of a job up to its last, which says how it ended. Raises no broker error.

    Args:
        service: the way to the job.
        request: the job.
        streams: how many answers this process shows at the moment; they share its time.
        told: what is known of the answer already; the rest is added to it.
    """
    text = told.text if told else ""
    try:
        for update in _updates(service, request, streams, told):
            text = update.text
            yield update
    except HeliographError as error:
        yield Update(text, error=error.body)


def _updates(
    service: Service, request: GenerateRequest, streams: Callable[[], int], told: Answer | None
) -> Iterator[Update]:
    text, after = (told.text, EventId.parse(told.seen)) if told else ("", START)
    line, changed = _Line(service, request, is_claimed=after > START), False
    resumed = time.monotonic()
    followed = service.follow(request, after, tick_s=TICK_S)
    with closing(followed) as events:
        for event in events:
            match event:
                case Claim(id=event_id):
                    changed = True
                    line.claim(event_id.attempt)
                case Delta(text=piece, token_ids=ids):
                    # The first words are shown at once.
                    resumed = resumed if text else 0.0
                    text, changed = text + piece, True
                    line.add(len(ids))
                case End(text=piece):
                    if len(text) > LONG_CHARACTERS:
                        yield Update(text + piece, line.text)
                        time.sleep(PAINT_S)
                    yield Update(text + piece, wording.ending(event), end=event)
                    return
                case Failed(error=error):
                    yield Update(text, error=error)
                    return
                case None:
                    changed = line.look() or changed
            # Time is counted from when the reader came back for more, so that a slow reader is
            # given more text at a time instead of falling behind.
            if changed and time.monotonic() - resumed >= pace_s(streams(), len(text)):
                yield Update(text, line.text)
                changed, resumed = False, time.monotonic()


class _Line:
    """What is told of an answer until it ends, new each `LOOK_S`."""

    def __init__(self, service: Service, request: GenerateRequest, *, is_claimed: bool) -> None:
        self.text = wording.answering(1) if is_claimed else ""
        self._service = service
        self._request = request
        self._is_claimed = is_claimed
        self._attempt = 1
        self._tokens = 0  # after the first ones of this attempt, and when those came:
        self._since: float | None = None
        self._looked = time.monotonic()

    def claim(self, attempt: int) -> None:
        """A worker has taken the job."""
        self._is_claimed, self._attempt, self._since = True, attempt, None
        self.text = wording.reading(attempt)

    def add(self, tokens: int) -> None:
        """So many have come."""
        now = time.monotonic()
        if self._since is None:
            self._tokens, self._since, self._looked = 0, now, now
            self.text = wording.answering(self._attempt)
            return
        self._tokens += tokens
        if now - self._looked >= LOOK_S:
            self._looked = now
            self.text = wording.answering(self._attempt, self._tokens, now - self._since)

    def look(self) -> bool:
        """Nothing has come for a moment; return whether to tell something, if only that."""
        if time.monotonic() - self._looked < LOOK_S:
            return False
        self._looked = time.monotonic()
        if not self._is_claimed:
            self.text = _why_waiting(self._service, self._request)
        return True


def _why_waiting(service: Service, request: GenerateRequest) -> str:
    try:
        serving = [info for info in service.fleet.workers() if info.model == request.model]
        return wording.waiting(service.line.place(request), serving)
    except RedisUnavailable:
        return wording.no_redis()  # the stream decides when to give up
