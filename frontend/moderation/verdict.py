"""What a moderator is asked, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something breaks the rules, and which, in the moderator's own words."""

    flagged: bool
    categories: tuple[str, ...] = ()


class ModerationFailed(Exception):
    """The moderator gave no verdict. Says why, and nothing of what it was asked about."""


class Moderator(Protocol):
    """Judges texts and pictures; may be used from many threads."""

    name: str

    def judge(self, text: str, images: Sequence[bytes]) -> Verdict:
        """Judge a text with its pictures, each as it was uploaded.

        Raises:
            ModerationFailed: there is no verdict.
        """
        ...
