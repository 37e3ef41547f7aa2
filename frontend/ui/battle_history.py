"""The events of the list of battles: each method is one, as in `battle_handlers`."""

from __future__ import annotations

import gradio as gr

from broker.chats import Battles
from broker.errors import HeliographError
from frontend.jobs import Jobs
from frontend.ui import wording
from frontend.ui.battle_shown import CHOICES, SHOWN, choices, shown
from frontend.ui.conversation import Bookmark
from frontend.ui.history import as_list
from frontend.ui.language import say
from frontend.ui.shown import Outputs, line_of, owner, unchanged


class BattleHistory:
    """What battles an owner has, and how one is deleted."""

    def __init__(self, battles: Battles, jobs: Jobs) -> None:
        """Look into `battles`; cancel `jobs` of one that is deleted."""
        self._battles = battles
        self._jobs = jobs

    def refresh(self, bookmark: str | None, request: gr.Request) -> Outputs:
        """Bring the list up to date. Gives the list, the button Delete, and its question."""
        open_id = Bookmark.parse(bookmark).chat
        try:
            entries = self._battles.entries(owner(request))
        except HeliographError as failure:
            return (wording.error(failure.body), *unchanged(2))
        found = as_list(entries, open_id, "battle")
        return (found, gr.update(interactive=bool(open_id)), gr.update(visible=False))

    def delete(self, bookmark: str | None, request: gr.Request) -> Outputs:
        """Delete the open battle and stop its answers. Gives choices and what is shown."""
        try:
            battle = self._battles.read(owner(request), Bookmark.parse(bookmark).chat)
            for answer in battle.running:
                self._jobs.cancel(answer.job)
            self._battles.delete(battle)
        except Exception as failure:
            return (*unchanged(CHOICES + 6), line_of(failure), *unchanged(SHOWN - 7))
        return (*choices(interactive=True), *shown(None, wording.note(say("deleted"))))
