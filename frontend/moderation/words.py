"""A moderator that knows a list of words; needs no network and does not look at pictures.

Words are compared whole, whatever their capitals, width, invisible characters and the punctuation
between them; words in scripts that are written without blanks are found anywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final, Self

from broker.errors import ConfigurationError
from frontend.moderation.verdict import Verdict

MAX_WORDS_OF_A_LINE: Final = 10

_WORD: Final = re.compile(r"\w+")
_WITHOUT_BLANKS: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


class WordList:
    """Flags texts that have one of its words or phrases; says "word list", and not which."""

    name = "words"

    def __init__(self, lines: Iterable[str]) -> None:
        """Read words or phrases, one a line; what comes after `#` is a remark.

        Raises:
            ConfigurationError: a phrase is too long, or there is none at all.
        """
        self._phrases: set[tuple[str, ...]] = set()
        self._anywhere: set[str] = set()
        for line in lines:
            phrase = _words(line.partition("#")[0])
            if len(phrase) > MAX_WORDS_OF_A_LINE:
                raise ConfigurationError(
                    f"The word list has a line of {len(phrase)} words; at most "
                    f"{MAX_WORDS_OF_A_LINE} are possible. Write one word or phrase a line."
                )
            if phrase and any(map(_WITHOUT_BLANKS.search, phrase)):
                self._anywhere.add(" ".join(phrase))
            elif phrase:
                self._phrases.add(phrase)
        if not self._phrases and not self._anywhere:
            raise ConfigurationError("The word list has no words. Write one word or phrase a line.")
        self._lengths = sorted(set(map(len, self._phrases)))

    @classmethod
    def load(cls, path: str) -> Self:
        """Read a file, or the short list that comes with Heliograph if the path is empty.

        Raises:
            ConfigurationError: the file cannot be read, or is no word list.
        """
        file = Path(path) if path else files(__package__) / "words.txt"
        try:
            return cls(file.read_text("utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"HELIOGRAPH_MODERATION_WORDS={path!r} cannot be read ({type(error).__name__}): "
                "it must be a text file in UTF-8."
            ) from None

    def judge(self, text: str, images: Sequence[bytes]) -> Verdict:
        """Look for the words in the text; pictures pass."""
        words = _words(text)
        found = any(
            words[start : start + length] in self._phrases
            for length in self._lengths
            for start in range(len(words) - length + 1)
        )
        joined = " ".join(words)
        if found or any(word in joined for word in self._anywhere):
            return Verdict(True, ("word list",))
        return Verdict(False)


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, of which looks alike made alike."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    seen = "".join(letter for letter in folded if unicodedata.category(letter) != "Cf")
    return tuple(_WORD.findall(seen))
