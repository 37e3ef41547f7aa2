"""What follows the fleet and the votes while the page "Side by side" is open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from broker.battles import Duels
from broker.errors import HeliographError
from broker.messages import ModelInfo
from broker.strengths import standings
from frontend.feedback import Feedback
from frontend.fleet import Fleet
from frontend.ui import leaderboard_table, wording
from frontend.ui.battle import drawable, too_few
from frontend.ui.battle_shown import dropdown
from frontend.ui.shown import Outputs, unchanged

Mode = Literal["anonymous", "named"]


@dataclass(slots=True)
class Seen:
    """The models and votes that a tab shows already; who loses it is sent them again."""

    models: tuple[str, ...] | None = None
    duels: Duels | None = None


class BattleLive:
    """The models to choose from, and the leaderboard."""

    def __init__(self, fleet: Fleet, feedback: Feedback) -> None:
        """Take models from `fleet` and votes from `feedback`."""
        self._fleet = fleet
        self._feedback = feedback

    def models(self, seen: Seen, mode: Mode, left: str | None, right: str | None) -> Outputs:
        """Bring the models up to date. Gives both dropdowns and the notice.

        No name leaves for a page whose battles are anonymous.
        """
        try:
            live = tuple(info.name for info in self._fleet.models())
            able = len(ready(self._fleet))
        except HeliographError as failure:
            return (*unchanged(2), wording.error(failure.body))
        notice = wording.note(too_few(able)) if able < 2 else ""
        wanted = live if mode == "named" else None
        if wanted == seen.models:
            return (*unchanged(2), notice)
        seen.models = wanted
        if wanted is None:
            hidden = gr.update(visible=False, choices=[], value=None)
            return (hidden, hidden, notice)
        first, second = (*live, None, None)[:2]
        return (dropdown(live, left or first), dropdown(live, right or second), notice)

    def board(self, seen: Seen) -> Any:
        """Bring the leaderboard up to date."""
        try:
            duels = self._feedback.duels()
        except HeliographError as failure:
            seen.duels = None
            return wording.error(failure.body)
        if duels == seen.duels:
            return gr.skip()
        seen.duels = duels
        return leaderboard_table.tables(standings(duels))


def ready(fleet: Fleet) -> list[ModelInfo]:
    """The models that may be drawn."""
    return drawable(fleet.models(), fleet.groups)
