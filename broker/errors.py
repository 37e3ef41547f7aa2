"""The one error tree: what can go wrong, its HTTP status and its wire code.

Errors are raised deep, cross processes as the fields of `ErrorBody`, and are turned into a reply at
exactly one place per process. Messages are for the person who sent the request: they say what was
wrong, which limit, and what to do; never a path, an address or a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error looks like once it left the process that raised it (OpenAI's error object)."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None


class HeliographError(Exception):
    """Base of all errors that a client may see."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> ErrorBody:
        """The error as it crosses processes."""
        return ErrorBody(
            self.status, self.type, self.code, self.message, self.param, self.retry_after_s
        )


class InvalidRequest(HeliographError):
    """The request is malformed, or a parameter has a wrong type or is out of range."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class InvalidImage(InvalidRequest):
    """The bytes are not a picture that may be opened, or the picture is damaged."""

    code = "invalid_image"


class ContentFlagged(InvalidRequest):
    """A moderator flags what was to be sent."""

    code = "content_flagged"

    def __init__(self, categories: Sequence[str]) -> None:
        why = f" ({', '.join(categories)})" if categories else ""
        super().__init__(
            f"Your message breaks the content guidelines of this page{why}, so it was not sent. "
            "Change it and try again."
        )


class ContextLengthExceeded(InvalidRequest):
    """Prompt and images need more tokens than the model can hold."""

    code = "context_length_exceeded"


class RequestTooLarge(InvalidRequest):
    """The body, an image's bytes or its pixels are over a limit."""

    status = 413
    code = "request_too_large"


class ModelNotFound(InvalidRequest):
    """Nobody has ever served a model of that name here, or nobody does now."""

    status = 404
    code = "model_not_found"


class JobNotFound(InvalidRequest):
    """The job id is unknown or its record has expired."""

    status = 404
    code = "job_not_found"


class JobLost(JobNotFound):
    """Redis has lost the job, or part of its answer, since it was accepted."""

    status = 503
    type = "server_error"
    code = "job_lost"

    def __init__(self) -> None:
        super().__init__(
            "The queue's server lost its data, and this answer with them. Send the request again."
        )


class AnswerExpired(InvalidRequest):
    """The job has ended, and its answer is not kept any more."""

    status = 410
    code = "answer_expired"


class KeyReused(InvalidRequest):
    """An `Idempotency-Key` came again with another body."""

    status = 422
    code = "idempotency_key_reused"


class ChatNotFound(InvalidRequest):
    """The chat or battle was deleted, has expired, or is somebody else's."""

    status = 404
    code = "chat_not_found"


class ChatChanged(InvalidRequest):
    """The chat or battle was changed by somebody else since it was read."""

    status = 409
    code = "chat_changed"

    def __init__(self, kind: str = "chat") -> None:
        super().__init__(
            f"This {kind} was changed in another tab. Here it is as it is now; say again what you "
            "want."
        )


class ChatTooLarge(RequestTooLarge):
    """A chat or battle, or the number of those of one owner, is at its limit."""

    code = "chat_too_large"


class QueueFull(HeliographError):
    """The model's queue is at its bound; the request was not accepted."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class QueueTimeout(HeliographError):
    """The job was not started within the time that it was given; nothing of it was computed."""

    status = 503
    code = "queue_timeout"


class NoLiveWorker(HeliographError):
    """The model is known, but no worker that serves it is alive."""

    status = 503
    code = "no_live_worker"


class RedisUnavailable(HeliographError):
    """Redis cannot be reached, or refuses writes."""

    status = 503
    code = "redis_unavailable"


class RedisFull(RedisUnavailable):
    """Redis has reached its `maxmemory` and refuses writes."""

    code = "redis_full"


class RedisReadOnly(RedisUnavailable):
    """Redis is a replica, which refuses writes."""

    code = "redis_read_only"


class LoopDetected(HeliographError):
    """The request has come through this cell before."""

    status = 508
    code = "loop_detected"


class UpstreamFailed(HeliographError):
    """The server that computes for a worker did not answer, broke off, or answered nonsense."""

    status = 502
    code = "upstream_failed"


class AnswerDiffers(HeliographError):
    """An answer that broke off was begun anew and did not come to what had been told of it."""

    status = 502
    code = "answer_differs"

    def __init__(self) -> None:
        super().__init__(
            "The answer broke off where it was computed, and begun anew it came out differently. "
            "Send the request again."
        )


class ModerationUnavailable(HeliographError):
    """The moderator gave no verdict, and without one nothing is sent."""

    status = 503
    code = "moderation_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "Your message could not be checked against the content guidelines, so it was not sent. "
            "Try again later."
        )


class WorkerFailed(HeliographError):
    """The worker failed while it generated."""

    code = "worker_failed"


class ConfigurationError(Exception):
    """A setting or a flag is wrong; the process that reads it must not start."""


class RemoteError(HeliographError):
    """An error that another process raised, rebuilt from its body."""

    def __init__(self, body: ErrorBody) -> None:
        super().__init__(body.message, param=body.param)
        self._body = body

    @property
    def body(self) -> ErrorBody:
        """The body as the other process wrote it."""
        return self._body
