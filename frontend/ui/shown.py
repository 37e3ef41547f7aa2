"""Chats, failures and choices as values of the page's components; decides nothing."""

from __future__ import annotations

import logging
from typing import Any, Literal, get_args

import gradio as gr
from pydantic import ValidationError

from broker.conversation import Chat
from broker.errors import ErrorBody, HeliographError, InvalidRequest, WorkerFailed
from broker.messages import ImageProcessMode, SamplingParams
from frontend.ui import tabs, wording
from frontend.ui.conversation import Bookmark, Controls, Phase, phase
from frontend.ui.language import say
from frontend.ui.markup import render

log = logging.getLogger(__name__)

Outputs = tuple[Any, ...]

BUTTONS = 7
"""Send, Stop, Regenerate, Clear, Upvote, Downvote, Flag: the order of `buttons`."""

SHOWN = 3 + BUTTONS
"""Chat, line, bookmark and buttons: the order of `shown`."""

PARAMETERS = 7
"""Temperature, top-p, repetition penalty, most output tokens, most input tiles (or 0), images'
process mode (or ""), system prompt: the order of `parameters`, and of what `choose` takes."""

PARTS = 4
"""The answer to go on with, and what a shared chat has not: the side column, the message's row and
the row of buttons."""


def owner(request: gr.Request) -> str:
    """Who owns the chats of the tab that asks."""
    return tabs.owner(request.cookies, request.session_hash or "")


def address(request: gr.Request) -> str:
    """Where the tab that asks is; behind trusted proxies what they say (see `app.main`)."""
    return request.client.host if request.client else ""


def base_url(request: gr.Request) -> str:
    """The page's address as the browser has it, with a slash at its end."""
    return str(request.request.base_url) if request.request else ""


def unchanged(count: int) -> Outputs:
    """Leave so many components as they are."""
    return (gr.skip(),) * count


def shown(chat: Chat, line: str | None = None) -> Outputs:
    """Show a chat, with another line than that of its last answer if there is one."""
    line = wording.last(chat) if line is None else line
    return (render(chat), line, str(Bookmark.of(chat)), *buttons(phase(chat)))


def read_only(chat: Chat) -> Outputs:
    """Show a chat to who has its link, and hide what would change it."""
    line = (
        say("This answer is still being written.")
        if chat.under_way
        else say("Shared with you, read-only")
    )
    value = gr.update(value=render(chat), editable=None, elem_classes=["read-only"])
    hidden = (gr.update(visible=False),) * (PARTS - 1)
    return (value, wording.note(line), "", *buttons("empty"), "", *hidden)


def resume(chat: Chat) -> Outputs:
    """Have the answer under way, if there is one, go on in the tab."""
    return (chat.under_way.job if chat.under_way else "", *unchanged(PARTS - 1))


def buttons(now: Phase) -> Outputs:
    """Switch the seven buttons on and off."""
    may = Controls.of(now)
    on = (may.send, may.stop, may.regenerate, may.clear, may.vote, may.vote, may.vote)
    return tuple(gr.update(interactive=each) for each in on)


def process_modes() -> list[tuple[str, str]]:
    """How pictures may be brought to the model's shape."""
    return [(say("As it is"), ""), *((say(mode), mode) for mode in get_args(ImageProcessMode))]


def parameters(chat: Chat | None) -> Outputs:
    """Set what was chosen when the chat was last asked on; without one only what may be chosen."""
    modes = gr.update(choices=process_modes())
    if chat is None:
        return (*unchanged(PARAMETERS - 2), modes, gr.skip())
    chosen = chat.sampling
    return (
        chosen.temperature,
        chosen.top_p,
        chosen.repetition_penalty,
        chosen.max_tokens,
        chosen.max_input_tiles or 0,
        modes | {"value": chosen.image_process_mode or ""},
        chat.system,
    )


def sampling_of(
    temperature: float,
    top_p: float,
    max_tokens: int,
    max_tiles: int = 0,
    mode: ImageProcessMode | Literal[""] = "",
    repetition_penalty: float = 1.0,
) -> SamplingParams:
    """The parameters as they are sent.

    Raises:
        InvalidRequest: they are out of range.
    """
    try:
        return SamplingParams(
            temperature=temperature,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            max_tokens=max_tokens,
            max_input_tiles=max_tiles or None,
            image_process_mode=mode or None,
        )
    except ValidationError as invalid:
        names = ", ".join(str(error["loc"][0]) for error in invalid.errors())
        raise InvalidRequest(
            say("These parameters are out of range: {names}.", names=names)
        ) from None


def choose(
    chat: Chat,
    model: str | None,
    temperature: float,
    top_p: float,
    repetition_penalty: float,
    max_tokens: int,
    max_tiles: int,
    mode: ImageProcessMode | Literal[""],
    system: str | None,
) -> Chat:
    """The chat with the model and the parameters to ask it on.

    Raises:
        InvalidRequest: they are out of range.
    """
    sampling = sampling_of(temperature, top_p, max_tokens, max_tiles, mode, repetition_penalty)
    words = (system or "").strip()
    return chat.model_copy(update={"model": model or "", "sampling": sampling, "system": words})


def body_of(failure: Exception, job_id: str = "") -> ErrorBody:
    """What to tell of whatever went wrong; what nobody foresaw goes to the log."""
    if isinstance(failure, HeliographError):
        return failure.body
    log.error("the chat page failed, job %s", job_id or "none yet", exc_info=failure)
    return WorkerFailed(say("Something went wrong in the chat page; its log says more.")).body


def line_of(failure: Exception, job_id: str = "") -> str:
    """One sentence for whatever went wrong."""
    return wording.error(body_of(failure, job_id), job_id)
