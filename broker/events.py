"""The events of an answer, and how they are written as entries of its log.

Plain data classes, because a busy system writes tens of thousands of them a second. Nothing here
knows how they are stored and published (`channel` does).
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Any, Literal, NamedTuple, Self

from broker.errors import ErrorBody

FinishReason = Literal["stop", "length", "cancelled"]


class EventId(NamedTuple):
    """Place of an event in its job: stream entry id `<attempt>-<n>`, compared in that order."""

    attempt: int
    n: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.n}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<attempt>-<n>`.

        Raises:
            ValueError: the text has another form.
        """
        attempt, dash, n = text.partition("-")
        if not dash:
            raise ValueError(f"event id {text!r} is not of the form <attempt>-<n>")
        return cls(int(attempt), int(n))


START = EventId(0, 0)


class Likely(NamedTuple):
    """A token as the bytes it stands for, and its log-probability."""

    token: bytes
    logprob: float


class TokenLogprob(NamedTuple):
    """A generated token, and the likeliest tokens at its place, the likeliest first."""

    token: bytes
    logprob: float
    top: tuple[Likely, ...] = ()


@dataclass(frozen=True, slots=True)
class SeenImage:
    """What a model got of a picture: `tiles` of so many pixels each, for `tokens` of the prompt.

    `width` and `height` are those of the picture as it was sent, upright. Where the engine cannot
    tell how it is cut, `tiles` and their sides are 0.
    """

    width: int
    height: int
    tiles: int
    tile_width: int
    tile_height: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a finished answer; image tokens count as prompt tokens.

    `cached_tokens` of the prompt were not computed again. `images` has the conversation's pictures
    in order; none where the engine does not tell what it made of them.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    images: tuple[SeenImage, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from submission to claim, to the first token and to the end (worker's view)."""

    queued_s: float
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker took the job: entry `<attempt>-0`."""

    id: EventId
    worker: str


@dataclass(frozen=True, slots=True)
class Delta:
    """New text and the token ids behind it; text may lag behind the ids by a held-back piece.

    `logprobs` has one entry for each id if they were asked for, else none.
    """

    id: EventId
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """The answer is complete. Carries the last text and ids, so one write ends a job."""

    id: EventId
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended in an error."""

    id: EventId
    error: ErrorBody


Event = Claim | Delta | End | Failed
_TERMINAL = (End, Failed)


def is_terminal(event: Event) -> bool:
    """Whether no event can follow this one."""
    return isinstance(event, _TERMINAL)


def encode_event(event: Event) -> dict[str, str]:
    """Write an event (without its id) as the fields of a stream entry."""
    match event:
        case Claim(_, worker):
            return {"k": "claim", "w": worker}
        case Delta(_, text, ids, logprobs):
            fields = {"k": "delta", "d": text, "t": " ".join(map(str, ids))}
            return fields | _encode_logprobs(logprobs)
        case End(_, text, ids, reason, usage, timings, logprobs):
            counts = f"{usage.prompt_tokens} {usage.completion_tokens} {usage.cached_tokens}"
            times = f"{timings.queued_s:.4f} {timings.first_token_s:.4f} {timings.total_s:.4f}"
            joined = " ".join(map(str, ids))
            fields = {"k": "end", "d": text, "t": joined, "r": reason, "u": counts, "s": times}
            return fields | _encode_images(usage.images) | _encode_logprobs(logprobs)
        case Failed(_, error):
            body = {
                "status": error.status,
                "type": error.type,
                "code": error.code,
                "message": error.message,
                "param": error.param,
            }
            if error.retry_after_s is not None:
                body["retry_after_s"] = error.retry_after_s
            return {"k": "error", "e": json.dumps(body, ensure_ascii=False)}


class Entry(NamedTuple):
    """An event as it is written: what is published is `[id, fields]` in JSON.

    `state` is the job's from this event on; empty where it stays the same.
    """

    id: EventId
    message: bytes
    state: str

    @classmethod
    def of(cls, event: Event) -> Self:
        """Write an event; what is no text in UTF-8 becomes a question mark."""
        message = json.dumps((str(event.id), encode_event(event)), ensure_ascii=False)
        return cls(event.id, message.encode(errors="replace"), _state_after(event))


def _state_after(event: Event) -> str:
    match event:
        case End():
            return "cancelled" if event.finish_reason == "cancelled" else "done"
        case Failed():
            return "failed"
    return ""


def decode_message(message: bytes) -> Event:
    """Read an event as `Entry` wrote it; anything else raises what comes of it."""
    event_id, fields = json.loads(message.decode())  # of bytes it would find out the encoding
    return decode_event(EventId.parse(event_id), fields)


def decode_event(event_id: EventId, fields: dict[str, str]) -> Event:
    """Read an event from its id and the fields of its stream entry.

    Raises:
        ValueError: the entry is of an unknown kind or lacks a field.
    """
    try:
        match fields["k"]:
            case "claim":
                return Claim(event_id, fields["w"])
            case "delta":
                return Delta(event_id, fields["d"], _ids(fields["t"]), _decode_logprobs(fields))
            case "end":
                queued, first, total = map(float, fields["s"].split())
                return End(
                    event_id,
                    fields["d"],
                    _ids(fields["t"]),
                    fields["r"],  # type: ignore[arg-type]
                    _decode_usage(fields),
                    Timings(queued, first, total),
                    _decode_logprobs(fields),
                )
            case "error":
                return Failed(event_id, ErrorBody(**json.loads(fields["e"])))
            case kind:
                raise ValueError(f"event {event_id} is of unknown kind {kind!r}")
    except KeyError as missing:
        raise ValueError(f"event {event_id} lacks field {missing}") from missing


def _ids(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _encode_images(images: tuple[SeenImage, ...]) -> dict[str, str]:
    """Write `i`: the six numbers of each picture, pictures apart by commas. Omitted when empty."""
    return {"i": ",".join(" ".join(map(str, astuple(each))) for each in images)} if images else {}


def _decode_usage(fields: dict[str, str]) -> Usage:
    prompt, completion, cached = (*map(int, fields["u"].split()), 0)[:3]
    shown = fields["i"].split(",") if "i" in fields else ()
    images = tuple(SeenImage(*map(int, each.split())) for each in shown)
    return Usage(prompt, completion, cached, images)


def _encode_logprobs(logprobs: tuple[TokenLogprob, ...]) -> dict[str, str]:
    """Write `l`: a list `[token, logprob, token, logprob, ...]` per id, a token's bytes as Latin-1.

    The generated token comes first, then the likeliest. Omitted when empty.
    """
    if not logprobs:
        return {}
    rows = [
        [
            part
            for token, logprob in ((each.token, each.logprob), *each.top)
            for part in (token.decode("latin-1"), logprob)
        ]
        for each in logprobs
    ]
    return {"l": json.dumps(rows, separators=(",", ":"))}


def _decode_logprobs(fields: dict[str, str]) -> tuple[TokenLogprob, ...]:
    rows = fields.get("l")
    return tuple(map(_decode_logprob, json.loads(rows))) if rows else ()


def _decode_logprob(row: list[Any]) -> TokenLogprob:
    tokens = (token.encode("latin-1") for token in row[::2])
    (token, logprob), *top = zip(tokens, row[1::2], strict=True)
    return TokenLogprob(token, logprob, tuple(Likely(*each) for each in top))
