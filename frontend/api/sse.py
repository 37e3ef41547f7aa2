"""The bytes of a streamed chat answer: server-sent events in OpenAI's shape.

A thousand streams of twenty tokens a second pass through here, so the constant part of a chunk is
built once per stream and only the text is encoded. Text is escaped to ASCII: a client that splits
at odd bytes or at U+2028 cannot break it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from broker.errors import ErrorBody, HeliographError
from broker.events import Delta, End, Failed, Usage
from broker.subscriber import Events
from frontend.api.client import ClientGone
from frontend.api.errors import error_object, unexpected
from frontend.api.logprobs import logprobs_object
from frontend.api.silence import Silence

DONE = b"data: [DONE]\n\n"

_compact = json.JSONEncoder(separators=(",", ":")).encode
_quote = json.encoder.encode_basestring_ascii


def finish_reason(end: End) -> str:
    """OpenAI's word for why an answer ended."""
    return "stop" if end.finish_reason == "cancelled" else end.finish_reason


def usage_object(usage: Usage) -> dict[str, object]:
    """OpenAI's usage object, with what became of each picture where the engine tells it."""
    details: dict[str, object] = {"cached_tokens": usage.cached_tokens}
    if usage.images:
        details["image_tokens"] = sum(image.tokens for image in usage.images)
        details["images"] = [asdict(image) for image in usage.images]
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": details,
    }


class Chunks:
    """Encodes one stream's chunks; all share id, time and model."""

    def __init__(self, completion_id: str, model: str, created: int, *, usage: bool) -> None:
        """Build what is the same in every chunk; `usage` is `stream_options.include_usage`."""
        fields = {"id": completion_id, "object": "chat.completion.chunk", "created": created}
        self._head = f"data: {_compact({**fields, 'model': model})[:-1]},"
        self._usage = usage
        self._tail = ',"usage":null}\n\n' if usage else "}\n\n"
        self._before_text = self._head + '"choices":[{"index":0,"delta":{"content":'
        self._before_logprobs = '},"logprobs":'
        self._after_logprobs = ',"finish_reason":null}]' + self._tail
        self._after_text = f"{self._before_logprobs}null{self._after_logprobs}"

    def begin(self) -> bytes:
        """The first chunk: the role and an empty text."""
        delta = '"choices":[{"index":0,"delta":{"role":"assistant","content":""'
        return (self._head + delta + self._after_text).encode()

    def piece(self, event: Delta | End) -> bytes:
        """An event's text and log-probabilities; tokens may have come without text so far."""
        rest = self._after_text
        if event.logprobs:
            told = _compact(logprobs_object(event.logprobs))
            rest = f"{self._before_logprobs}{told}{self._after_logprobs}"
        attempt, n = event.id
        return f"id: {attempt}-{n}\n{self._before_text}{_quote(event.text)}{rest}".encode()

    def end(self, event: End) -> bytes:
        """The rest of the text, why it ended, and the usage if it was asked for."""
        piece = self.piece(event) if event.text or event.logprobs else b""
        return piece + self.finish(event)

    def finish(self, event: End) -> bytes:
        """What `end` has after the text."""
        mark = f"id: {event.id}\n"
        last = (
            f'{mark}{self._head}"choices":[{{"index":0,"delta":{{}},"logprobs":null,'
            f'"finish_reason":"{finish_reason(event)}"}}]{self._tail}'
        )
        if self._usage:
            counts = _compact(usage_object(event.usage))
            last += f'{mark}{self._head}"choices":[],"usage":{counts}}}\n\n'
        return last.encode() + DONE


def comment(text: str) -> bytes:
    """A line that clients skip."""
    return f": {text}\n\n".encode()


def failure(body: ErrorBody) -> bytes:
    """An error after the stream has begun; nothing follows it."""
    return f"data: {_compact(error_object(body))}\n\n".encode() + DONE


def stream(
    first: Delta | End | None,
    events: Events,
    chunks: Chunks,
    silence: Silence,
    *,
    begins: bool = True,
) -> Iterator[bytes]:
    """Yield a stream's bytes, from the first chunk to `[DONE]`.

    Args:
        first: what was already taken from `events`, None when there is no news yet.
        events: the rest; its end is the caller's to close.
        chunks: encodes them.
        silence: what comments shall say while nothing comes.
        begins: whether it is the beginning of the answer; else there is no first chunk.
    """
    head = chunks.begin() if begins else b""
    try:
        match first:
            case None:
                yield head + comment(silence.begin())
            case Delta():
                yield head + chunks.piece(first)
            case End():
                yield head + chunks.end(first)
                return
        yield from _rest(events, chunks, silence)
    except ClientGone:
        return
    except HeliographError as error:
        yield failure(error.body)
    except Exception as error:
        yield failure(unexpected(error))


def _rest(events: Events, chunks: Chunks, silence: Silence) -> Iterator[bytes]:
    silence.reset()
    for event in events:
        match event:
            case Delta():
                if event.text or event.logprobs:
                    silence.reset()
                    yield chunks.piece(event)
            case End():
                yield chunks.end(event)
            case Failed(_, error):
                yield failure(error)
            case None if news := silence.news():
                yield comment(news)
