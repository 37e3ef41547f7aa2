"""Battles and failures as values of the components of the page "Side by side"; decides nothing."""

from __future__ import annotations

from html import escape
from typing import Any, Final

import gradio as gr

from broker.conversation import Chat
from broker.errors import HeliographError, RedisUnavailable, RemoteError
from broker.feedback import Outcome
from frontend.ui import answer, wording
from frontend.ui.battle import SIDES, Battle, Side, masked
from frontend.ui.conversation import Phase
from frontend.ui.markup import render
from frontend.ui.shown import Outputs, line_of, unchanged

OUTCOMES: Final[tuple[Outcome, ...]] = ("left", "right", "tie", "bothbad")
BUTTONS: Final = 4 + len(OUTCOMES)
"""Send, Stop, Regenerate, New round, then the votes: the order of `buttons`."""

CHOICES: Final = 3
"""Mode, left model, right model: what stays as it is during a battle."""

SHOWN: Final = 7 + BUTTONS
"""Two names, two chats, two lines, the page's line, and the buttons: the order of `shown`."""

NO_VOTE: Final = (
    "No vote is taken, for not both models have answered. Regenerate asks both again; another "
    "message goes on without this one."
)


def without_name(failure: Exception, model: str) -> Exception:
    """What may be told of a refusal of ours while names are hidden."""
    if not isinstance(failure, HeliographError) or isinstance(failure, RedisUnavailable):
        return failure
    return RemoteError(masked(failure.body)) if model in failure.message else failure


def told(update: answer.Update, battle: Battle, job_id: str) -> str:
    """A side's line; while names are hidden without the job's id, by which one could look it up."""
    if update.error is None:
        return wording.note(update.line)
    if battle.hidden:
        return wording.error(masked(update.error))
    return wording.error(update.error, job_id)


def choices(*, interactive: bool) -> Outputs:
    """Let mode and models be changed, or not."""
    return (gr.update(interactive=interactive),) * CHOICES


def dropdown(names: tuple[str, ...], value: str | None) -> Any:
    """Show a list of models; what is chosen stays, even when its workers are gone."""
    choices = sorted({*names, value}) if value else list(names)
    return gr.update(visible=True, choices=choices, value=value)


def names(battle: Battle) -> Outputs:
    """The headings of both sides."""
    told = {side: _name(battle.chats.get(side), battle.hidden) for side in SIDES}
    return tuple(f"<h2>{side.capitalize()}: {escape(told[side])}</h2>" for side in SIDES)


def _name(chat: Chat | None, hidden: bool) -> str:
    if chat is None:
        return "no model yet"
    if hidden:
        return "name hidden until you vote"
    return chat.last.model if chat.last else chat.model


def shown(battle: Battle, lines: dict[Side, str]) -> Outputs:
    """Show a battle, with the line of each side that has one."""
    chats = (render(battle.chats[side]) if battle.chats else [] for side in SIDES)
    told = (lines.get(side, "") for side in SIDES)
    return (*names(battle), *chats, *told, "", *buttons(battle.phase))


def refused(battle: Battle, failure: Exception) -> Outputs:
    """Tell what went wrong, and leave what is shown as it is."""
    return (*unchanged(6), line_of(failure), *buttons(battle.phase))


def buttons(phase: Phase) -> Outputs:
    """Switch the buttons on and off: a vote only when both have answered, and once."""
    ended = phase in ("answered", "failed")
    on = (phase != "answering", phase == "answering", ended, ended or phase == "voted")
    votes = (phase == "answered",) * len(OUTCOMES)
    return tuple(gr.update(interactive=each) for each in (*on, *votes))
