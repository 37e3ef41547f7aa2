"""Battles and failures as values of the components of the page "Side by side"; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final

import gradio as gr

from broker.errors import ErrorBody, HeliographError, RedisUnavailable, RemoteError
from broker.feedback import Outcome
from broker.side_by_side import SIDES, Battle, Side
from frontend.ui import wording
from frontend.ui.battle import masked, phase_of
from frontend.ui.conversation import Bookmark, Phase
from frontend.ui.language import say
from frontend.ui.markup import render
from frontend.ui.shown import Outputs, line_of, unchanged

VOTES: Final[dict[Outcome, str]] = {
    "left": "Left is better",
    "right": "Right is better",
    "tie": "Tie",
    "bothbad": "Both are bad",
}
"""What may be voted, and how the buttons call it."""

BUTTONS: Final = 4 + len(VOTES)
"""Send, Stop, Regenerate, New round, then the votes: the order of `buttons`."""

CHOICES: Final = 3
"""Mode, left model, right model: what stays as it is during a battle."""

PARAMETERS: Final = 3
"""Temperature, top-p, most output tokens: the order of `parameters`."""

SHOWN: Final = 8 + BUTTONS
"""Two names, two chats, two lines, the page's line, bookmark, and buttons: the order of `shown`."""

NO_VOTE: Final = (
    "No vote is taken, for not both models have answered. Regenerate asks both again; another "
    "message goes on without this one."
)


def without_name(failure: Exception, model: str) -> Exception:
    """What may be told of a refusal of ours while names are hidden."""
    if not isinstance(failure, HeliographError) or isinstance(failure, RedisUnavailable):
        return failure
    return RemoteError(masked(failure.body)) if model in failure.message else failure


def told(battle: Battle, error: ErrorBody, job_id: str) -> str:
    """A side's failure; while names are hidden without the job's id, by which to look it up."""
    if battle.hidden:
        return wording.error(masked(error), is_kept=True)
    return wording.error(error, job_id)


def choices(*, interactive: bool) -> Outputs:
    """Let mode and models be changed, or not."""
    mode = gr.update(interactive=interactive, choices=modes())
    return (mode, *(gr.update(interactive=interactive) for _ in SIDES))


def modes() -> list[tuple[str, str]]:
    """How the models are chosen."""
    return [(say("Anonymous battle"), "anonymous"), (say("Choose the models"), "named")]


def chosen(battle: Battle) -> Outputs:
    """Set mode and models to those of a battle; names of hidden ones are not told."""
    if battle.anonymous:
        return (_mode("anonymous"), *unchanged(len(SIDES)))
    models = (
        gr.update(visible=True, choices=[chat.model], value=chat.model, interactive=False)
        for chat in battle.conversations
    )
    return (_mode("named"), *models)


def _mode(value: str) -> Any:
    return gr.update(value=value, interactive=False, choices=modes())


def parameters(battle: Battle) -> Outputs:
    """Set what was chosen when the battle was last asked on."""
    chosen = battle.left.sampling
    return (chosen.temperature, chosen.top_p, chosen.max_tokens)


def dropdown(names: tuple[str, ...], value: str | None) -> Any:
    """Show a list of models; what is chosen stays, even when its workers are gone."""
    choices = sorted({*names, value}) if value else list(names)
    return gr.update(visible=True, choices=choices, value=value)


def names(battle: Battle | None) -> Outputs:
    """The headings of both sides."""
    return tuple(f"<h2>{say(_HEADS[side])}{escape(_name(battle, side))}</h2>" for side in SIDES)


_HEADS: Final[dict[Side, str]] = {"left": "Left: ", "right": "Right: "}


def _name(battle: Battle | None, side: Side) -> str:
    if battle is None:
        return say("no model yet")
    if battle.hidden:
        return say("name hidden until you vote")
    chat = battle.chat(side)
    return chat.last.model if chat.last else chat.model


def shown(
    battle: Battle | None, line: str | None = None, lines: Mapping[Side, str] | None = None
) -> Outputs:
    """Show a battle, with other lines than those of its last answers if there are some."""
    # The address of a drawing has the job's id, by which one could look the model up.
    chats = (render(battle.chat(side), draws=False) if battle else [] for side in SIDES)
    of_sides = {side: _last(battle, side) for side in SIDES} | dict(lines or {})
    line = line_of_phase(battle) if line is None else line
    marked = str(Bookmark.of(battle)) if battle else ""
    return (*names(battle), *chats, *of_sides.values(), line, marked, *buttons(phase_of(battle)))


def _last(battle: Battle | None, side: Side) -> str:
    if battle is None:
        return ""
    chat = battle.chat(side)
    if chat.last and chat.last.error:
        return told(battle, chat.last.error, chat.last.job)
    return wording.last(chat)


def line_of_phase(battle: Battle | None) -> str:
    """What there is to know of both answers."""
    if battle and battle.vote:
        return wording.note(
            say("Thanks, your vote is noted: {vote}.", vote=say(VOTES[battle.vote]))
        )
    return wording.note(say(NO_VOTE)) if phase_of(battle) == "failed" else ""


def refused(failure: Exception) -> Outputs:
    """Tell what went wrong, and leave what is shown as it is."""
    return (*unchanged(6), line_of(failure), *unchanged(1 + BUTTONS))


def buttons(phase: Phase) -> Outputs:
    """Switch the buttons on and off: a vote only when both have answered, and once."""
    ended = phase in ("answered", "failed")
    on = (phase != "answering", phase == "answering", ended, ended or phase == "voted")
    votes = (phase == "answered",) * len(VOTES)
    return tuple(gr.update(interactive=each) for each in (*on, *votes))
