"""The bytes of a streamed reply: HTTP/1.1's framing undone, tokens noted in server-sent events.

Looks for a few marks in each event and parses no JSON, since the tokens of an answer share the
machine with whoever reads them. Knows nothing of sockets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

TEXT = re.compile(rb'"content":\s*"(?!")')
COUNT = re.compile(rb'"completion_tokens":\s*(\d+)')
PROMPT = re.compile(rb'"prompt_tokens":\s*(\d+)')
ERROR = re.compile(rb'"error(?:_code)?":\s*[{"1-9]')
"""Within a text these marks cannot match: its quotes are escaped."""


class Body:
    """Undoes the framing of a reply: status line, headers, then chunks, a length or neither."""

    def __init__(self) -> None:
        self.status = 0
        self.complete = False
        self.is_chunked = False
        self.keeps_connection = False
        """Whether the server will take another request on this connection."""
        self._buffer = b""
        self._left: int | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what came; return what of it belongs to the body."""
        self._buffer += data
        if not self.status and not self._read_head():
            return b""
        return b"".join(self._chunks()) if self.is_chunked else self._take()

    @property
    def ends_by_closing(self) -> bool:
        """Whether the body is framed by nothing but the end of the connection."""
        return self.status != 0 and not self.is_chunked and self._left is None

    def _read_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        lines = head.split(b"\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        self._buffer = rest
        self.status = int(lines[0].split(b" ")[1])
        self.is_chunked = headers.get(b"transfer-encoding", b"").lower() == b"chunked"
        self.keeps_connection = (
            lines[0].startswith(b"HTTP/1.1") and headers.get(b"connection", b"").lower() != b"close"
        )
        if self.is_chunked:
            self._left = 0
        elif b"content-length" in headers:
            self._left = int(headers[b"content-length"])
        return True

    def _chunks(self) -> Iterator[bytes]:
        while not self.complete:
            if self._left:
                piece = self._take()
                if not piece:
                    return
                yield piece
                continue
            line, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                return
            self._buffer = rest
            if line:
                self._left = int(line.partition(b";")[0], 16)
                self.complete = not self._left

    def _take(self) -> bytes:
        piece = self._buffer[: self._left]
        self._buffer = self._buffer[len(piece) :]
        if self._left is not None:
            self._left -= len(piece)
            self.complete = not self.is_chunked and not self._left
        return piece


class Events:
    """Notes when the text of a stream came, and how many tokens its server counted."""

    def __init__(self) -> None:
        self.error = ""
        self.prompt_tokens = 0
        """Tokens of the prompt, 0 while the server has not told."""
        self._rest = b""
        self._times: list[float] = []
        self._counts: list[int | None] = []
        self._total: int | None = None

    def feed(self, data: bytes, now_s: float) -> None:
        """Take a piece of the body."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._read(line, now_s)

    def _read(self, line: bytes, now_s: float) -> None:
        if ERROR.search(line):
            self.error = line.decode(errors="replace")[:300]
        count = COUNT.search(line)
        told = int(count[1]) if count else None
        if told is not None:
            self._total = told
            prompt = PROMPT.search(line)
            self.prompt_tokens = int(prompt[1]) if prompt else 0
        if TEXT.search(line):
            self._times.append(now_s)
            self._counts.append(told)

    @property
    def begun(self) -> bool:
        """Whether any text came."""
        return bool(self._times)

    @property
    def tokens(self) -> int:
        """Tokens of the answer: as the server counts them, else one for each piece of text."""
        return len(self._times) if self._total is None else self._total

    def arrivals(self) -> list[tuple[float, float]]:
        """Return when each piece came and its tokens, an equal part of all if nobody told."""
        counts = [count for count in self._counts if count]
        if len(counts) < len(self._times):
            share = self.tokens / max(1, len(self._times))
            return [(time_s, share) for time_s in self._times]
        steps = zip([0, *counts], counts, strict=False)
        return [
            (time_s, float(max(1, count - before)))
            for time_s, (before, count) in zip(self._times, steps, strict=True)
        ]
