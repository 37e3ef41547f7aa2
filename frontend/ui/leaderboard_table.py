"""The leaderboard as tables of HTML, one for each group of models that were compared."""

from __future__ import annotations

from collections.abc import Sequence

from broker.strengths import Standing
from frontend.ui import wording
from frontend.ui.language import say
from frontend.ui.table import table

_BASIS = (
    "Every vote counts, whether names were hidden or shown. 95 %: where the rating lies with that "
    "confidence; rank: the places that it may have."
)
_HEADS = ("Rank", "Model", "Rating", "95 %", "Votes", "Won", "Lost", "Ties", "Of them both bad")


def tables(rows: Sequence[Standing]) -> str:
    """All models that were compared, as `broker.strengths.standings` sorts them."""
    if not rows:
        return wording.note(say("No two answers have been compared yet."))
    groups = sorted({row.group for row in rows})
    boards = (
        table(
            say("Leaderboard")
            if len(groups) == 1
            else say("Leaderboard, group {group}", group=group + 1),
            [say(head) for head in _HEADS],
            (_row(row) for row in rows if row.group == group),
        )
        for group in groups
    )
    return "".join((*boards, wording.note(say(_BASIS))))


def _row(row: Standing) -> tuple[str, ...]:
    return (
        str(row.rank)
        if row.rank == row.last_rank
        else say("{low} to {high}", low=row.rank, high=row.last_rank),
        row.model,
        f"{row.rating:.0f}",
        say("{low} to {high}", low=f"{row.low:.0f}", high=f"{row.high:.0f}"),
        *map(str, (row.votes, row.won, row.lost, row.ties, row.bothbad)),
    )
