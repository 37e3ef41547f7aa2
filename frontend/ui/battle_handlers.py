"""The events of the page "Side by side": each method is one, and gives values for its components.

The only module of that page where errors become lines. A question runs as `ask` or `regenerate`
(puts two jobs on their queues), two times `stream` (each shows one answer grow, whatever becomes of
the other) and `settle` (sets the buttons). Layout is none of its business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from broker.battles import Duels
from broker.conversation import Chat
from broker.errors import HeliographError
from broker.feedback import Outcome
from broker.messages import ModelInfo
from broker.readers import new_reader
from broker.strengths import standings
from frontend.service import Service
from frontend.ui import answer, leaderboard_table, wording
from frontend.ui.battle import SIDES, Battle, Side, begin, choose, draw, drawable, too_few
from frontend.ui.battle_shown import (
    BUTTONS,
    CHOICES,
    NO_VOTE,
    SHOWN,
    buttons,
    choices,
    dropdown,
    names,
    refused,
    shown,
    told,
    without_name,
)
from frontend.ui.judge import Judge
from frontend.ui.markup import render
from frontend.ui.reading import TabReaders
from frontend.ui.shown import Outputs, address, body_of, line_of, sampling_of, unchanged
from frontend.ui.uploads import Upload, Uploads

log = logging.getLogger(__name__)

Mode = Literal["anonymous", "named"]


@dataclass(slots=True)
class Session:
    """What is known of a tab: its battle, and the models and votes that it shows already."""

    battle: Battle = field(default_factory=Battle)
    models: tuple[str, ...] | None = None
    duels: Duels | None = None


class BattleHandlers:
    """What the page's events do; one for all tabs, each of which brings its own `Session`."""

    def __init__(self, service: Service, uploads: Path, judge: Judge) -> None:
        """Use the service; read no file but those under `uploads`; `judge` lets questions pass."""
        self._service = service
        self._uploads = Uploads(service, uploads)
        self._judge = judge
        self._rule = f"grace:{service.settings.ui_grace_s}"
        self._readers = TabReaders(service.readers)

    def ask(
        self,
        session: Session,
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
        words, battle = text or "", session.battle
        if battle.phase == "answering" or not (words.strip() or pictures):
            return unchanged(2 + CHOICES + SHOWN)
        try:
            images = tuple(self._uploads.store(picture) for picture in pictures or ())
            if battle.phase == "empty":
                battle = self._begin(mode, left, right, sees=bool(images))
            asked = battle.ask(words, images)
            lines = self._submit(session, asked, (temperature, top_p, max_tokens), request)
        except Exception as failure:
            return (*unchanged(2 + CHOICES), *refused(session.battle, failure))
        return ("", None, *choices(interactive=False), *shown(session.battle, lines))

    def regenerate(
        self,
        session: Session,
        temperature: float,
        top_p: float,
        max_tokens: int,
        request: gr.Request,
    ) -> Outputs:
        """Have both answer the last question again. Gives what is shown."""
        if session.battle.phase not in ("answered", "failed"):
            return unchanged(SHOWN)
        try:
            asked = session.battle.with_each(Chat.ask_again)
            lines = self._submit(session, asked, (temperature, top_p, max_tokens), request)
        except Exception as failure:
            return refused(session.battle, failure)
        return shown(session.battle, lines)

    def _begin(self, mode: Mode, left: str | None, right: str | None, *, sees: bool) -> Battle:
        hidden = mode != "named"
        pair = draw(self._ready(), sees=sees) if hidden else choose(left, right)
        return begin(*pair, hidden=hidden)

    def _ready(self) -> list[ModelInfo]:
        return drawable(self._service.models(), self._service.fleet.groups)

    def _submit(
        self,
        session: Session,
        asked: Battle,
        chosen: tuple[float, float, int],
        request: gr.Request,
    ) -> dict[Side, str]:
        """Put the question on both models' queues; return the line of each side.

        Raises:
            HeliographError: neither model can be asked.
        """
        sampling = sampling_of(*chosen)
        self._judge.check(asked.chats["left"], request.cookies)
        failures: dict[Side, Exception] = {}
        for side, chat in asked.chats.items():
            reader = new_reader()
            try:
                job = self._service.submit(
                    chat.model,
                    chat.messages,
                    sampling,
                    on_disconnect=self._rule,
                    reader=reader,
                    ip=address(request),
                )
            except Exception as failure:
                failures[side] = without_name(failure, chat.model) if asked.hidden else failure
                continue
            sent = asked.chats[side] = chat.send(job)
            if sent.last:
                self._readers.arrive(_seat(request, side), sent.last, reader)
        if len(failures) == len(SIDES):
            raise failures["left"]
        session.battle = asked
        lines = dict.fromkeys(SIDES, wording.note("sent"))
        return lines | {side: line_of(failure) for side, failure in failures.items()}

    def stream(self, side: Side) -> Callable[[Session, gr.Request], Iterator[Outputs]]:
        """Make the event that shows a side's answer grow. It gives chat and line."""

        def show(session: Session, request: gr.Request) -> Iterator[Outputs]:
            # Gradio closes this generator when the tab is gone; then it reads the job no more.
            battle, seat = session.battle, _seat(request, side)
            chat = battle.chats.get(side)
            last = self._readers.show(seat, chat.last) if chat else None
            if chat is None or last is None:
                # Gradio empties the outputs of a generator that yields nothing.
                yield unchanged(2)
                return
            try:
                job = self._service.job(last.job).request
                for update in answer.follow(self._service, job, lambda: len(self._readers)):
                    last = update.added_to(last)
                    battle.chats[side] = chat.with_last(last)
                    if last.error:
                        self._cancel(last.job)
                    yield render(battle.chats[side]), told(update, battle, last.job)
            except Exception as failure:
                self._cancel(last.job)
                last = last.fail(body_of(failure, last.job))
                battle.chats[side] = chat.with_last(last)
                yield gr.skip(), line_of(failure)
            finally:
                self._readers.end(seat, has_ended=last.has_ended)

        return show

    def settle(self, session: Session) -> Outputs:
        """Tell what may be done now. Gives the page's line and the buttons."""
        phase = session.battle.phase
        return (wording.note(NO_VOTE if phase == "failed" else ""), *buttons(phase))

    def stop(self, session: Session) -> None:
        """Cancel both jobs; their streams then end with what has been said."""
        for under_way in session.battle.under_way:
            self._cancel(under_way.job)

    def leave(self, request: gr.Request) -> None:
        """Read no longer for a tab that was closed, reloaded or lost."""
        for side in SIDES:
            self._readers.end(_seat(request, side))

    def _cancel(self, job_id: str) -> None:
        try:
            self._service.cancel(job_id)
        except HeliographError as failure:
            log.warning("job %s could not be cancelled: %s", job_id, failure)

    def begin_anew(self, session: Session) -> Outputs:
        """Forget the battle. Gives message, pictures, choices and what is shown."""
        if session.battle.phase == "answering":
            return unchanged(2 + CHOICES + SHOWN)
        session.battle = Battle()
        return ("", None, *choices(interactive=True), *shown(session.battle, {}))

    def vote(self, outcome: Outcome) -> Callable[[Session, gr.Request], Outputs]:
        """Make the event of a vote button. It gives both names, the page's line and the buttons."""

        def cast(session: Session, request: gr.Request) -> Outputs:
            battle = session.battle
            if battle.phase != "answered":
                return unchanged(3 + BUTTONS)
            left, right = (chat.last.job if chat.last else "" for chat in battle.chats.values())
            battle.voted = True  # at once, for a second one may come meanwhile
            try:
                self._service.battle(
                    left,
                    right,
                    outcome,
                    anonymous=battle.hidden,
                    ip=address(request),
                )
            except Exception as failure:
                battle.voted = False
                return (*unchanged(2), line_of(failure), *buttons(battle.phase))
            battle.hidden = False
            line = wording.note("Thanks, your vote is noted.")
            return (*names(battle), line, *buttons(battle.phase))

        return cast

    def refresh(self, session: Session, mode: Mode, left: str | None, right: str | None) -> Outputs:
        """Bring the models up to date. Gives both dropdowns and the notice.

        No name leaves for a page whose battles are anonymous.
        """
        try:
            live = tuple(info.name for info in self._service.models())
            ready = len(self._ready())
        except HeliographError as failure:
            return (*unchanged(2), wording.error(failure.body))
        notice = wording.note(too_few(ready)) if ready < 2 else ""
        if mode != "named":
            session.models = None
            hidden = gr.update(visible=False, choices=[], value=None)
            return (hidden, hidden, notice)
        if live == session.models:
            return (*unchanged(2), notice)
        session.models = live
        first, second = (*live, None, None)[:2]
        return (dropdown(live, left or first), dropdown(live, right or second), notice)

    def board(self, session: Session) -> Any:
        """Bring the leaderboard up to date."""
        try:
            duels = self._service.duels()
        except HeliographError as failure:
            session.duels = None
            return wording.error(failure.body)
        if duels == session.duels:
            return gr.skip()
        session.duels = duels
        return leaderboard_table.tables(standings(duels))


def _seat(request: gr.Request, side: Side) -> str:
    """A side of a tab, as a reader of its own."""
    return f"{request.session_hash or ''}:{side}"
