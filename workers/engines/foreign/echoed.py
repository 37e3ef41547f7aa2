"""Where the answer begins in a text that repeats the prompt, as LLaVA's workers' texts do.

Most repeat it exactly. Some strip it, or decode it from tokens, which loses or moves blanks and
control tokens; it is then followed letter by letter. Some do not repeat it at all.
"""

from __future__ import annotations

import re

from broker.errors import UpstreamFailed

_UNSEEN = re.compile(r"\s+|</?s>|<unk>|<\|[a-z_]{1,20}\|>|</?im(?:age|_start|_end)>|▁")
"""What may come and go when a prompt is encoded and decoded."""
_ENOUGH = 16
"""So many letters in common are no accident: the text does repeat the prompt."""


class EchoedPrompt:
    """Cuts the prompt of one request off the texts of its answer."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._letters = _UNSEEN.sub("", prompt)
        self._start: int | None = None

    def cut(self, text: str, last: bool = False) -> str | None:
        """Return the answer, without blanks at its ends; None while that cannot be told.

        Args:
            text: prompt and answer so far.
            last: whether nothing comes any more.

        Raises:
            UpstreamFailed: the text repeats a part of the prompt only; without a subject.
        """
        if self._start is None:
            self._start = self._find(text, last)
        return None if self._start is None else text[self._start :].strip()

    def _find(self, text: str, last: bool) -> int | None:
        if text.startswith(self._prompt):
            return len(self._prompt)
        place, matched = self._follow(text)
        if matched == len(self._letters):
            return place
        if place == len(text):
            return 0 if last and text else None
        if matched < _ENOUGH:
            return 0
        raise UpstreamFailed("repeated the prompt otherwise than it was sent")

    def _follow(self, text: str) -> tuple[int, int]:
        """Compare letters; return the place in `text` and the letters of the prompt in common."""
        place = matched = 0
        while place < len(text):
            if found := _UNSEEN.match(text, place):
                if matched == len(self._letters):
                    break
                place = found.end()
            elif matched < len(self._letters) and text[place] == self._letters[matched]:
                place, matched = place + 1, matched + 1
            else:
                break
        return place, matched
