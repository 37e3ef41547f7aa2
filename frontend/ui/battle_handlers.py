"""The events of the page "Side by side": each method is one, and gives values for its components.

A question runs as `ask` or `regenerate` (puts two jobs on their queues), two times `stream` (each
shows one answer grow, whatever becomes of the other) and `settle` (sets the buttons). All that is
to last stands in Redis. Layout is none of its business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gradio as gr

from broker.conversation import Chat
from broker.errors import ChatChanged, HeliographError
from broker.feedback import Outcome
from broker.side_by_side import SIDES, Battle, Side, new_battle
from frontend.service import Service
from frontend.ui import wording
from frontend.ui.aliases import spelled_out
from frontend.ui.answering import Answering
from frontend.ui.battle import ask_on, choose, draw, phase_of
from frontend.ui.battle_history import BattleHistory
from frontend.ui.battle_live import BattleLive, Mode, ready
from frontend.ui.battle_shown import (
    BUTTONS,
    CHOICES,
    PARAMETERS,
    SHOWN,
    buttons,
    choices,
    chosen,
    line_of_phase,
    parameters,
    refused,
    shown,
    told,
    without_name,
)
from frontend.ui.battle_votes import vote
from frontend.ui.conversation import Bookmark
from frontend.ui.following import newer
from frontend.ui.judge import Judge
from frontend.ui.language import say
from frontend.ui.markup import render
from frontend.ui.shown import Outputs, address, line_of, owner, sampling_of, unchanged
from frontend.ui.stopping import stop
from frontend.ui.uploads import Upload, Uploads

log = logging.getLogger(__name__)


class BattleHandlers:
    """What the page's events do; one for all tabs, each of which says which battle it shows."""

    def __init__(self, service: Service, uploads: Path, judge: Judge) -> None:
        """Use the service; read no file but those under `uploads`; `judge` lets questions pass."""
        self.live = BattleLive(service.fleet, service.feedback)
        self.history = BattleHistory(service.battles, service.jobs)
        self._service = service
        self._uploads = Uploads(service.pictures, uploads)
        self._judge = judge
        self._answering = Answering(service)
        self._readers = self._answering.readers

    def open(self, request: gr.Request) -> Outputs:
        """Show the battle of the address. Gives choices, parameters, and what is shown."""
        battle_id, line = dict(request.query_params).get("battle"), None
        battle: Battle | None = None
        try:
            if battle_id:
                battle = self._service.battles.read(owner(request), battle_id)
        except Exception as failure:
            line = line_of(failure)
        if battle is None:
            return (*choices(interactive=True), *unchanged(PARAMETERS), *shown(None, line))
        self._arrive(battle, request)
        return (*chosen(battle), *parameters(battle), *shown(battle))

    def look(self, bookmark: str | None, request: gr.Request) -> Outputs:
        """Show what another tab has made of the battle. Gives what is shown, and what goes on."""
        is_read = any(seat in self._readers for seat in _seats(request))
        if is_read or not (battle := newer(self._service.battles, bookmark, owner(request))):
            return unchanged(SHOWN + 1)
        self._arrive(battle, request)
        return (*shown(battle), str(Bookmark.of(battle)) if battle.running else "")

    def _arrive(self, battle: Battle, request: gr.Request) -> None:
        """Have a tab be a reader of the answers under way."""
        for side in SIDES:
            if under_way := battle.chat(side).under_way:
                self._readers.arrive(_seat(request, side), under_way)

    def ask(
        self,
        bookmark: str | None,
        text: str | None,
        pictures: list[Upload] | None,
        mode: Mode,
        left: str | None,
        right: str | None,
        temperature: float,
        top_p: float,
        max_tokens: int,
        request: gr.Request,
    ) -> Outputs:
        """Ask both models. Gives message, pictures, choices and what is shown.

        What is refused stays in its boxes, and an empty message changes nothing.
        """
        words = text or ""
        if not (words.strip() or pictures):
            return unchanged(2 + CHOICES + SHOWN)
        try:
            battle = self._read(bookmark, request)
            _check(battle, bookmark)
            if battle and battle.running:
                return unchanged(2 + CHOICES + SHOWN)
            images = self._uploads.store(pictures or ())
            if battle is None:
                battle = self._begin(owner(request), mode, left, right, sees=bool(images))
            asked = ask_on(battle, spelled_out(words), images)
            page = self._submit(asked, (temperature, top_p, max_tokens), request)
        except Exception as failure:
            return (*unchanged(2 + CHOICES), *self._refuse(bookmark, request, failure))
        return ("", None, *choices(interactive=False), *page)

    def regenerate(
        self,
        bookmark: str | None,
        temperature: float,
        top_p: float,
        max_tokens: int,
        request: gr.Request,
    ) -> Outputs:
        """Have both answer the last question again. Gives what is shown."""
        try:
            battle = self._read(bookmark, request)
            _check(battle, bookmark)
            if battle is None or phase_of(battle) not in ("answered", "failed"):
                return unchanged(SHOWN)
            asked = battle.with_each(Chat.ask_again)
            return self._submit(asked, (temperature, top_p, max_tokens), request)
        except Exception as failure:
            return self._refuse(bookmark, request, failure)

    def _begin(
        self, owned_by: str, mode: Mode, left: str | None, right: str | None, *, sees: bool
    ) -> Battle:
        anonymous = mode != "named"
        pair = draw(ready(self._service.fleet), sees=sees) if anonymous else choose(left, right)
        return new_battle(owned_by, *pair, anonymous=anonymous)

    def _read(self, bookmark: str | None, request: gr.Request) -> Battle | None:
        """The battle of a tab as it is now, if it has one."""
        battle_id = Bookmark.parse(bookmark).chat
        return self._service.battles.read(owner(request), battle_id) if battle_id else None

    def _refuse(self, bookmark: str | None, request: gr.Request, failure: Exception) -> Outputs:
        """Show why nothing was done, and the battle as it is if that is what the tab knew not."""
        if isinstance(failure, ChatChanged):
            try:
                return shown(self._read(bookmark, request), line_of(failure))
            except HeliographError as gone:
                failure = gone
        return refused(failure)

    def _submit(
        self, asked: Battle, chosen: tuple[float, float, int], request: gr.Request
    ) -> Outputs:
        """Put the last question on both models' queues; show the battle as it is then.

        Raises:
            HeliographError: neither model can be asked.
        """
        sampling = sampling_of(*chosen)
        self._judge.check(asked.left, request.cookies)
        battle = asked.with_each(lambda chat: chat.model_copy(update={"sampling": sampling}))
        failures: dict[Side, Exception] = {}
        for side in SIDES:
            try:
                battle = self._send(battle, side, request)
            except Exception as failure:
                model = battle.chat(side).model
                failures[side] = without_name(failure, model) if battle.hidden else failure
        if len(failures) == len(SIDES):
            raise failures["left"]
        lines = dict.fromkeys(SIDES, wording.note(say("sent")))
        lines |= {side: line_of(failure) for side, failure in failures.items()}
        return shown(battle, "", lines)

    def _send(self, battle: Battle, side: Side, request: gr.Request) -> Battle:
        """Put the last question of a side on its model's queue; return the battle as it is then."""
        chat, seat = battle.chat(side), _seat(request, side)
        try:
            return self._answering.ask(seat, chat, partial(battle.send, side), address(request))
        except ChatChanged:
            # What the other side has told by now may have been kept; then this one goes on.
            now = self._service.battles.read(battle.owner, battle.id)
            if now.chat(side).turns != chat.turns:
                raise
            return self._send(now, side, request)

    def stream(self, side: Side) -> Callable[[str | None, gr.Request], Iterator[Outputs]]:
        """Make the event that shows a side's answer grow, from where it is. Gives chat and line."""

        def show(bookmark: str | None, request: gr.Request) -> Iterator[Outputs]:
            seat = _seat(request, side)
            try:
                battle = self._read(bookmark, request)
            except HeliographError as failure:
                yield gr.skip(), line_of(failure)
                return
            if battle is None:
                self._readers.end(seat)
                # Gradio empties the outputs of a generator that yields nothing.
                yield unchanged(2)
                return
            yield from self._answering.show(
                seat,
                self._service.battles,
                battle,
                battle.chat(side),
                partial(render, draws=False),
                lambda update: wording.note(update.line),
                partial(told, battle),
            )

        return show

    def settle(self, bookmark: str | None, request: gr.Request) -> Outputs:
        """Tell what may be done now. Gives the page's line, the bookmark and the buttons."""
        try:
            battle = self._read(bookmark, request)
        except HeliographError:
            return (*unchanged(2), *buttons("failed"))
        if battle is None:
            return unchanged(2 + BUTTONS)
        # What nobody shows here any more may be taken up again.
        is_left = any(
            battle.chat(side).under_way and _seat(request, side) not in self._readers
            for side in SIDES
        )
        phase = "failed" if is_left else phase_of(battle)
        marked = self._answering.bookmark(battle, *_seats(request))
        return (line_of_phase(battle) or gr.skip(), marked, *buttons(phase))

    def stop(self, bookmark: str | None, request: gr.Request) -> None:
        """Cancel both answers, whoever reads them; they end with what has been said."""
        try:
            battle = self._read(bookmark, request)
        except HeliographError as failure:
            log.warning("a battle could not be stopped: %s", failure)
            return
        if battle:
            stop(self._service.jobs, battle)

    def leave(self, request: gr.Request) -> None:
        """Read no longer for a tab that was closed, reloaded or lost."""
        self._answering.leave(*_seats(request))

    def begin_anew(self) -> Outputs:
        """Leave the battle. Gives message, pictures, choices and what is shown."""
        return ("", None, *choices(interactive=True), *shown(None))

    def vote(self, outcome: Outcome) -> Callable[[str | None, gr.Request], Outputs]:
        """Make the event of a vote button. It gives what is shown."""

        def cast(bookmark: str | None, request: gr.Request) -> Outputs:
            try:
                battle = self._read(bookmark, request)
                if phase_of(battle) == "voted":
                    return shown(battle)
                _check(battle, bookmark)
                if battle is None or phase_of(battle) != "answered":
                    return unchanged(SHOWN)
                voted = vote(self._service, battle, outcome, address(request))
            except Exception as failure:
                return self._refuse(bookmark, request, failure)
            return shown(voted)

        return cast


def _check(battle: Battle | None, bookmark: str | None) -> None:
    """Raise ChatChanged if the tab shows another version."""
    if battle:
        Bookmark.parse(bookmark).check(battle)


def _seat(request: gr.Request, side: Side) -> str:
    """A side of a tab, as a reader of its own."""
    return f"{request.session_hash or ''}:{side}"


def _seats(request: gr.Request) -> tuple[str, ...]:
    return tuple(_seat(request, side) for side in SIDES)
