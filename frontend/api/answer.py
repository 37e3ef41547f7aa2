"""One job followed for one client: its events, and its cancellation when the client leaves.

This is where a client that leaves frees its slot: its socket is looked at on every event and every
tick, and whatever ends the reading early gives up the client's place among the job's readers, once;
what becomes of a job that nobody reads is `broker.readers`' to decide.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from broker.connection import redis_errors
from broker.errors import (
    HeliographError,
    JobNotFound,
    NoLiveWorker,
    RedisUnavailable,
    RemoteError,
)
from broker.events import START, Claim, Delta, End, EventId, Failed, TokenLogprob, is_terminal
from broker.messages import GenerateRequest
from broker.subscriber import Events
from frontend.api.client import Client, ClientGone
from frontend.api.errors import ServerStopping
from frontend.service import Service

log = logging.getLogger(__name__)

TICK_S = 0.25
"""How often a silent answer's client is looked after."""

HOLD_S = 1.0
"""How long a stream's status line waits for the first news, which may be an error."""


class Answers:
    """Follows jobs for clients until the process is told to stop."""

    def __init__(self, service: Service) -> None:
        """Use `service` to follow and to cancel."""
        self._service = service
        self._stopping = False

    def stop(self) -> None:
        """End all answers that are followed, at their next event or tick, as if the client left."""
        self._stopping = True

    def follow(
        self,
        request: GenerateRequest,
        client: Client,
        after: EventId = START,
        *,
        reader: str = "",
    ) -> Events:
        """Yield the job's events after `after`, and None on each tick of silence.

        `reader` is who got its lease with the submission, empty for one that comes later.

        Raises:
            ClientGone: the client has closed its connection.
            ServerStopping: this process is about to end.
            NoLiveWorker, JobNotFound, RedisUnavailable: see `frontend.service`.
        """
        ended = False
        reader = self._service.readers.arrive(request.id, reader)
        try:
            with client.watched():
                for event in self._service.follow(request, after, tick_s=TICK_S):
                    ended = event is not None and is_terminal(event)
                    if not ended:
                        self._look_after(client)
                    yield event
        except (NoLiveWorker, JobNotFound, RedisUnavailable):
            ended = True
            raise
        finally:
            if ended:
                self._service.readers.release(reader)
            else:
                self._leave(request.id, reader)

    def _look_after(self, client: Client) -> None:
        if client.is_gone():
            raise ClientGone
        if self._stopping:
            raise ServerStopping("This server is stopping. Send the request again.")

    def _leave(self, job_id: str, reader: str) -> None:
        try:
            with redis_errors():
                if self._service.readers.leave(reader):
                    log.info("job %s cancelled: nobody reads it any more", job_id)
        except HeliographError as error:
            log.warning("Redis is told later that nobody reads job %s: %s", job_id, error)


def first_news(events: Events) -> Delta | End | None:
    """Wait up to `HOLD_S` for an answer to begin; None when it has not.

    Raises:
        RemoteError: the worker refused the job.
    """
    deadline = time.monotonic() + HOLD_S
    for event in events:
        match event:
            case Delta() | End():
                return event
            case Failed(_, error):
                raise RemoteError(error)
            case None | Claim() if time.monotonic() >= deadline:
                return None
    return None


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer put together: its text, its tokens' log-probabilities, and its last event."""

    text: str
    logprobs: tuple[TokenLogprob, ...]
    end: End


def whole(events: Events) -> Whole:
    """Wait for the end of an answer.

    Raises:
        RemoteError: the job failed.
    """
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    for event in events:
        match event:
            case Delta() | End():
                texts.append(event.text)
                logprobs += event.logprobs
                if isinstance(event, End):
                    return Whole("".join(texts), tuple(logprobs), event)
            case Failed(_, error):
                raise RemoteError(error)
    raise HeliographError("The answer has no end.")
