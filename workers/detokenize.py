"""Token ids to text that may be shown: whole characters only, stop strings held back.

Owns the text state of one answer. It is a pure function of the ids pushed so far, so an answer that
is resumed from its ids elsewhere goes on with the same text. Knows nothing of end-of-turn tokens
(`sequence` does) and of tokenizers only that they decode a list of ids.
"""

from __future__ import annotations

from collections.abc import Callable

REPLACEMENT = "\ufffd"
_MAX_PENDING = 3
"""A character has at most four bytes, hence at most three tokens that do not complete it."""
_MAX_WINDOW = 64
"""Tokens after which text is let go even if it still ends in the middle of a character."""

Decode = Callable[[list[int]], str]


class Characters:
    """Decodes a growing list of ids, holding back a character until all its bytes are there.

    Only a short window is decoded each time: the tokens since the last clean boundary and, because
    some tokenizers drop a leading space, those of the boundary before.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._context = 0
        self._shown = 0

    def push(self, token_id: int) -> str:
        """Take the next token; return the text that is now certain."""
        self._window.append(token_id)
        text = self._decode(self._window)
        if not text.endswith(REPLACEMENT) or len(self._window) > _MAX_WINDOW:
            return self._cut(text)
        if len(self._window) - self._context <= _MAX_PENDING:
            return ""
        new = text[self._shown : -1]
        self._shown += len(new)
        return new

    def flush(self) -> str:
        """Return what is held back, incomplete as it is."""
        return self._cut(self._decode(self._window))

    def _cut(self, text: str) -> str:
        new = text[self._shown :]
        if new or len(self._window) > _MAX_WINDOW:
            del self._window[: self._context]
            self._context = len(self._window)
            self._shown = len(self._decode(self._window))
        return new


class StopStrings:
    """Passes text on up to the first stop string, never showing a piece of it."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take new text; return what cannot become part of a stop string."""
        if not self._stop:
            return text
        self._held += text
        hits = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if hits:
            self.found = True
            before, self._held = self._held[: min(hits)], ""
            return before
        keep = self._longest_prefix()
        end = len(self._held) - keep
        out, self._held = self._held[:end], self._held[end:]
        return out

    def flush(self) -> str:
        """Return what is held back: the answer ended without completing a stop string."""
        out, self._held = self._held, ""
        return out

    def _longest_prefix(self) -> int:
        longest = min(len(self._held), max(map(len, self._stop)) - 1)
        for size in range(longest, 0, -1):
            tail = self._held[-size:]
            if any(stop.startswith(tail) for stop in self._stop):
                return size
        return 0


class Detokenizer:
    """The text of one answer, piece by piece."""

    def __init__(self, decode: Decode, stop: tuple[str, ...] = (), min_tokens: int = 0) -> None:
        """Look for `stop` in the text behind the first `min_tokens` tokens only."""
        self._characters = Characters(decode)
        self._stops = StopStrings(stop)
        self._unstoppable = min_tokens

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been generated; nothing may be pushed after it."""
        return self._stops.found

    def push(self, token_id: int) -> str:
        """Take the next token; return the text that may be shown now, often none."""
        text = self._characters.push(token_id)
        if self._unstoppable > 0:
            self._unstoppable -= 1
            return text
        return self._stops.push(text) if text else ""

    def flush(self) -> str:
        """End the answer; return the text held back, unless a stop string turns up in it."""
        text = self._stops.push(self._characters.flush())
        return text if self.stopped else text + self._stops.flush()
