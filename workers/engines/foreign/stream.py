"""What foreign workers stream: JSON objects that end in NUL, each with the whole text so far.

`frames` takes the bytes apart, and trusts none of them. `Growth` turns the texts into what is new,
and holds back what such workers take back: the beginning of a stop string, blanks at the end, half
a character. Knows nothing of HTTP, and of workers no more than that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from broker.errors import ContextLengthExceeded, UpstreamFailed, WorkerFailed
from workers.reply import parse

MAX_FRAME: Final = 4 * 2**20
"""Bytes of one frame: the prompt, and the answer so far."""

EXCEEDED: Final = "Exceeds max token length. Please start a new conversation, thanks."
"""LLaVA's worker answers this, as if the model had said it, when a prompt is too long."""

_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: the text so far, an error code (0: none), and what FastChat adds."""

    text: str
    error_code: int = 0
    finish_reason: str | None = None
    finishes: bool = False
    """Whether it has a finish reason, be it null: the last one of such a stream must name one."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


async def frames(parts: AsyncIterator[bytes], max_frames: int) -> AsyncIterator[Frame]:
    """Take a stream apart; empty frames only say that the worker is alive.

    Args:
        parts: bytes as they come.
        max_frames: more of them than that are not an answer.

    Raises:
        UpstreamFailed: it is something else, or ends in the middle of a frame; without a subject.
    """
    held = bytearray()
    found, count = False, 0
    async for part in parts:
        searched = len(held)
        held += part
        while (end := held.find(b"\0", searched)) >= 0:
            if end:
                yield _parse(bytes(held[:end]))
                found = True
            del held[: end + 1]
            searched = 0
            count += 1
        if len(held) > MAX_FRAME:
            raise UpstreamFailed(f"sent more than {MAX_FRAME:,} bytes at a time")
        if count > max_frames:
            raise UpstreamFailed(f"sent more than {max_frames:,} times, far over the limit")
    if held.strip():
        raise UpstreamFailed("ended its answer in the middle of a word")
    if not found:
        raise UpstreamFailed("ended its answer without a word")


def _parse(raw: bytes) -> Frame:
    try:
        fields = parse(raw)
        text, code = fields["text"], fields.get("error_code", 0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UpstreamFailed("sent something else than frames with a text") from error
    if not isinstance(text, str) or type(code) is not int:
        raise UpstreamFailed("sent a frame with fields of wrong types")
    reason = fields.get("finish_reason")
    usage = fields.get("usage")
    return Frame(
        text=text,
        error_code=code,
        finish_reason=reason if isinstance(reason, str) else None,
        finishes="finish_reason" in fields,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value < 2**31 else None


class Growth:
    """The text of one answer that is told again and again, each time a little longer."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        """End the text at the first of the `stop` strings, which is not told."""
        self._stop = tuple(text for text in stop if text)
        self._longest_stop = max(map(len, self._stop), default=0)
        self._text = ""
        self._told = ""
        self.stopped = False
        """Whether a stop string was found; nothing may be pushed after it."""

    def push(self, text: str) -> str:
        """Take the answer so far; return what of it is new and certain.

        Raises:
            WorkerFailed: it takes back what was told.
        """
        self._text = text
        place = self._find_stop(text)
        if place is not None:
            self.stopped = True
            self._text = text[:place]
            return self.end()
        return self._tell("" if EXCEEDED.startswith(text) else self._certain(text))

    def end(self) -> str:
        """End the answer as it is; return what was held back.

        Raises:
            ContextLengthExceeded: the answer is LLaVA's way to say that the prompt is too long.
            WorkerFailed: as for `push`.
        """
        if self._text.strip() == EXCEEDED:
            raise ContextLengthExceeded(
                "The conversation and its pictures are longer than the model can hold. Start a new "
                "conversation, or shorten this one."
            )
        return self._tell(self._text)

    def _tell(self, text: str) -> str:
        if not self._text.startswith(self._told):
            raise WorkerFailed(
                "The worker took back a part of its answer that it had told already. Send the "
                "request again."
            )
        new = text[len(self._told) :]
        self._told += new
        return new

    def _find_stop(self, text: str) -> int | None:
        start = max(0, len(self._told) - self._longest_stop + 1)
        found = [place for stop in self._stop if (place := text.find(stop, start)) >= 0]
        return min(found, default=None)

    def _certain(self, text: str) -> str:
        """Leave off, from the end, what may still be taken back."""
        longest = min(len(text), self._longest_stop - 1)
        for size in range(longest, 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                text = text[:-size]
                break
        end = len(text)
        while end and (text[end - 1].isspace() or text[end - 1] == _REPLACEMENT):
            end -= 1
        return text[:end]
