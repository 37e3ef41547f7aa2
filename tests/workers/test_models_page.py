"""The page about models lists what is tested, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from tests.workers import families, test_local_engine

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def first_column(heading: str) -> list[str]:
    """The first column of the table whose header begins so."""
    _, _, table = PAGE.partition(f"| {heading} |")
    rows = table.split("\n\n")[0].splitlines()[2:]
    return [re.match(r"\| (.*?) \|", row)[1] for row in rows]  # type: ignore[index]


def test_the_vision_families_are_those_of_the_tests() -> None:
    assert first_column("family") == list(families.FAMILIES)


def test_the_text_families_are_those_of_the_tests() -> None:
    assert first_column("text family") == list(test_local_engine.FAMILIES)
