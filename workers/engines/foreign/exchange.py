"""One request at one foreign worker: what is asked first, the stream, and how it ends.

An error's message here has no subject ("closed the connection"): the caller knows who it was.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx2

from broker import cell
from broker.addresses import AddressRefused
from broker.errors import ContextLengthExceeded, HeliographError, InvalidRequest, UpstreamFailed
from broker.events import FinishReason, Usage
from workers.engines.base import Piece
from workers.engines.foreign.dialects import Call
from workers.engines.foreign.stream import Frame, Growth, frames
from workers.outbound import ask, describe, refuse_status
from workers.status import ASK_S

_CONTEXT_OVERFLOW = 40303
_OWN_FAILURES = (1, 50001, 50002)
"""The worker's own exception: LLaVA's and InternVL's code, FastChat's, and its lack of memory."""


class Excepted(UpstreamFailed):
    """The worker says that it failed to compute this request; it may do better with others."""

    def __init__(self, text: str) -> None:
        super().__init__("failed to compute the answer")
        self.text = text


async def fit(
    client: httpx2.AsyncClient, address: str, call: Call, context_length: int, limited: bool
) -> Call:
    """Ask a FastChat worker how long the prompt is, which it would silently cut, and leave room.

    Args:
        client: see `workers.outbound`.
        address: the worker's URL.
        call: what is going to be asked.
        context_length: tokens that the model holds.
        limited: whether the request says how long the answer may be; else all the room is used.

    Raises:
        ContextLengthExceeded: there is no room for an answer.
    """
    body = {"model": call.payload["model"], "prompt": call.payload["prompt"]}
    try:
        answer, _ = await ask(client, f"{address}/count_token", body, ASK_S)
    except UpstreamFailed:
        return call  # not all of FastChat's workers can count
    count = answer.get("count")
    if type(count) is not int or count < 0:
        return call
    room = context_length - count - 1
    if room < 1:
        raise ContextLengthExceeded(
            f"The conversation has {count} tokens, and the model holds {context_length} with the "
            "answer. Shorten it.",
            param="messages",
        )
    max_tokens = min(call.max_tokens, room) if limited else room
    return replace(
        call, payload={**call.payload, "max_new_tokens": max_tokens}, max_tokens=max_tokens
    )


async def converse(
    client: httpx2.AsyncClient, address: str, call: Call, path: tuple[str, ...]
) -> AsyncGenerator[Piece]:
    """Send a request and yield a piece for each frame, the last one with a finish reason.

    Raises:
        Excepted: the worker tells an exception of its own.
        UpstreamFailed: no connection, a broken one, silence, or nonsense.
        HeliographError: the worker refuses this request.
    """
    answer = _Answer(call)
    headers = {cell.HEADER: cell.write_path(path)}
    url = f"{address}/worker_generate_stream"
    try:
        async with client.stream("POST", url, json=call.payload, headers=headers) as response:
            refuse_status(response)
            async for frame in frames(response.aiter_raw(), answer.max_frames):
                yield answer.take(frame)
                if answer.ended:
                    return
        yield answer.end()
    except (httpx2.HTTPError, httpx2.InvalidURL, AddressRefused) as error:
        raise UpstreamFailed(describe(error)) from error


class _Answer:
    """The answer of one stream: its text, its tokens, its end."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._growth = Growth(call.stop)
        self._frames = 0
        self._tokens = 0
        self._last: Frame | None = None
        self.max_frames = 4 * call.max_tokens + 1000
        """Workers send a frame for each token; some more often, none for ever."""
        self.ended = False

    def take(self, frame: Frame) -> Piece:
        """Turn a frame into a piece, which is the last one if it ends the answer."""
        if frame.error_code:
            raise _understand(frame)
        tokens = self._count(frame)
        self._last = frame
        text = self._cut(frame.text)
        new = "" if text is None else self._growth.push(text)
        if self._growth.stopped or frame.finish_reason is not None:
            return self._end(new + self._growth.end(), tokens)
        return Piece(new, tokens)

    def end(self) -> Piece:
        """End an answer whose stream has ended."""
        assert self._last is not None
        if self._last.finishes:
            raise UpstreamFailed("ended its answer without saying why")
        text = self._cut(self._last.text, last=True)
        new = "" if text is None else self._growth.push(text)
        return self._end(new + self._growth.end(), 0)

    def _end(self, new: str, tokens: int) -> Piece:
        self.ended = True
        reason = self._reason()
        # FastChat tells the place of the last token, from 0, where the length ended the answer.
        one_short = reason == "length" and self._tokens == self._call.max_tokens - 1
        missing = int(one_short or not self._tokens)
        self._tokens += missing
        return Piece(new, tokens + missing, finish_reason=reason, usage=self._usage())

    def _cut(self, text: str, last: bool = False) -> str | None:
        return self._call.echoed.cut(text, last) if self._call.echoed else text

    def _count(self, frame: Frame) -> int:
        """Count tokens: as told, else one a frame but the last, which only ends the stream."""
        before = self._tokens
        told = frame.completion_tokens
        self._tokens = max(before, self._frames) if told is None else told
        self._frames += 1
        return max(0, self._tokens - before)

    def _reason(self) -> FinishReason:
        assert self._last is not None
        told = self._last.finish_reason
        if told not in (None, "stop", "length"):
            raise UpstreamFailed(f"gave the answer up ({told[:40]!r})")
        if self._growth.stopped:
            return "stop"
        full = told == "length" if told else self._tokens >= self._call.max_tokens
        return "length" if full else "stop"

    def _usage(self) -> Usage | None:
        if self._last is None or self._last.prompt_tokens is None:
            return None
        return Usage(self._last.prompt_tokens, self._tokens)


def _understand(frame: Frame) -> HeliographError:
    """Say whose fault an error code is: the request's, or the worker's, or that of its network."""
    text = frame.text[:500]
    if frame.error_code in _OWN_FAILURES:
        return Excepted(text)
    if frame.error_code == _CONTEXT_OVERFLOW:
        return ContextLengthExceeded(f"The model's worker says: {text}")
    if 40000 <= frame.error_code < 42900:
        return InvalidRequest(f"The model's worker refuses the request: {text}")
    return UpstreamFailed(f"answered with error code {frame.error_code}")
