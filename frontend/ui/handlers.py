"""The events of asking and answering: each method is one, and gives values for Gradio's components.

A question runs as three events in a row: `send` or the like (puts the job on its queue), `stream`
(shows the answer grow) and `settle` (sets the buttons). All that is to last stands in Redis; of a
tab this process knows only which job it reads. Layout is none of its business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from broker.conversation import Chat, new_chat
from broker.errors import ChatChanged, HeliographError, InvalidRequest
from frontend.service import Service
from frontend.ui import wording
from frontend.ui.aliases import spelled_out
from frontend.ui.answer import Update
from frontend.ui.answering import Answering
from frontend.ui.attaching import Attaching
from frontend.ui.conversation import Bookmark, phase
from frontend.ui.following import newer
from frontend.ui.judge import Judge
from frontend.ui.language import say
from frontend.ui.markup import as_text, render, turn_at
from frontend.ui.message_box import EMPTY, Message
from frontend.ui.model_list import ModelList
from frontend.ui.shown import (
    BUTTONS,
    PARTS,
    SHOWN,
    Outputs,
    address,
    buttons,
    choose,
    line_of,
    owner,
    parameters,
    read_only,
    resume,
    shown,
    unchanged,
)
from frontend.ui.stopping import stop
from frontend.ui.uploads import Uploads
from frontend.ui.votes import Votes

log = logging.getLogger(__name__)


class Handlers:
    """What the page's events do; one for all tabs, each of which says which chat it shows."""

    def __init__(self, service: Service, uploads: Path, judge: Judge) -> None:
        """Use the service; read no file but those under `uploads`; `judge` lets questions pass."""
        self.models = ModelList(service)
        self.votes = Votes(service.chats, service.feedback)
        self._service = service
        self._uploads = Uploads(service.pictures, uploads)
        self.attaching = Attaching(service, self._uploads)
        self._judge = judge
        self._answering = Answering(service)
        self._readers = self._answering.readers

    def open(self, request: gr.Request) -> Outputs:
        """Show the chat of the address. Gives parameters, what is shown, and what may be done."""
        asked = dict(request.query_params)
        try:
            if asked.get("share"):
                chat = self._service.chats.shared(asked["share"])
                return (*parameters(None), *read_only(chat))
            if not asked.get("chat"):
                return (*parameters(None), *unchanged(SHOWN + PARTS))
            chat = self._service.chats.read(owner(request), asked["chat"])
            if chat.under_way:
                self._readers.arrive(request.session_hash or "", chat.under_way)
            return (*parameters(chat), *shown(chat), *resume(chat))
        except Exception as failure:
            page = shown(new_chat(""), line_of(failure))
            return (*parameters(None), *page, *unchanged(PARTS))

    def look(self, bookmark: str | None, request: gr.Request) -> Outputs:
        """Show what another tab has made of the chat. Gives what is shown, and what goes on."""
        tab = request.session_hash or ""
        if tab in self._readers or not (
            chat := newer(self._service.chats, bookmark, owner(request))
        ):
            return unchanged(SHOWN + 1)
        if chat.under_way:
            self._readers.arrive(tab, chat.under_way)
        return (*shown(chat), resume(chat)[0])

    def send(
        self,
        bookmark: str | None,
        model: str | None,
        message: Message,
        request: gr.Request,
        *chosen: Any,
    ) -> Outputs:
        """Ask. Gives message and what is shown; an empty message changes nothing.

        What is refused stays out of the chat and in its box.
        """
        if not (message["text"].strip() or message["files"]):
            return unchanged(1 + SHOWN)

        def ask(chat: Chat) -> Chat:
            images = self.attaching.store(chat, model, message)
            return chat.ask(spelled_out(message["text"]), images)

        is_asked, page = self._ask(bookmark, model, request, chosen, ask)
        return (EMPTY if is_asked else gr.skip(), *page)

    def regenerate(
        self, bookmark: str | None, model: str | None, request: gr.Request, *chosen: Any
    ) -> Outputs:
        """Have the last question answered again. Gives what is shown."""
        if not bookmark:
            return unchanged(SHOWN)
        return self._ask(bookmark, model, request, chosen, Chat.ask_again)[1]

    def edit(
        self,
        bookmark: str | None,
        model: str | None,
        request: gr.Request,
        edited: gr.EditData,
        *chosen: Any,
    ) -> Outputs:
        """Ask an earlier question in other words; what came after it goes. Gives what is shown."""
        if not bookmark:
            return unchanged(SHOWN)

        def change(chat: Chat) -> Chat:
            return chat.edit(turn_at(chat, int(edited.index)), as_text(str(edited.value)))  # type: ignore[arg-type]

        return self._ask(bookmark, model, request, chosen, change)[1]

    def undo(self, bookmark: str | None, request: gr.Request) -> Outputs:
        """Take the last turn back. Gives message and what is shown."""
        chat: Chat | None = None
        try:
            chat = self._read(bookmark, request)
            Bookmark.parse(bookmark).check(chat)
            if chat.under_way or not chat.turns:
                return unchanged(1 + SHOWN)
            question = chat.turns[-1].question
            files = [self._uploads.give_back(sha) for sha in question.images]
            message = Message(text=question.text, files=files)
            return (message, *shown(self._service.chats.save(chat.undo())))
        except Exception as failure:
            return (gr.skip(), *self._refuse(chat, failure))

    def _ask(
        self,
        bookmark: str | None,
        model: str | None,
        request: gr.Request,
        chosen: Outputs,
        change: Callable[[Chat], Chat],
    ) -> tuple[bool, Outputs]:
        """Change a chat and have its last question answered; return whether, and what is shown."""
        chat: Chat | None = None
        try:
            chat = self._read(bookmark, request)
            Bookmark.parse(bookmark).check(chat)
            if chat.under_way:
                return False, unchanged(SHOWN)
            chat = choose(chat, model or self.models.first(request), *chosen)
            return True, shown(*self._submit(change(chat), request))
        except Exception as failure:
            return False, self._refuse(chat, failure)

    def _refuse(self, chat: Chat | None, failure: Exception) -> Outputs:
        """Show why nothing was done, and the chat as it is if that is what the tab did not know."""
        if chat is None:
            return (gr.skip(), line_of(failure), *unchanged(1 + BUTTONS))
        if isinstance(failure, ChatChanged):
            try:
                chat = self._service.chats.read(chat.owner, chat.id)
            except HeliographError as gone:
                failure = gone
        return shown(chat, line_of(failure))

    def _read(self, bookmark: str | None, request: gr.Request) -> Chat:
        """The chat that a tab shows as it is now, or the one that it begins."""
        chat_id = Bookmark.parse(bookmark).chat
        return (
            self._service.chats.read(owner(request), chat_id)
            if chat_id
            else new_chat(owner(request))
        )

    def _submit(self, asked: Chat, request: gr.Request) -> tuple[Chat, str]:
        """Put a chat's question on its model's queue; return the chat as it is then, and its line.

        Raises:
            InvalidRequest: it cannot be asked like this. What may work later is not raised: the
                question stays and may be asked again.
        """
        if not asked.model:
            raise InvalidRequest(say(wording.NO_MODEL), param="model")
        self._judge.check(asked, request.cookies)
        seat = request.session_hash or ""
        try:
            sent = self._answering.ask(seat, asked, asked.send, address(request))
        except InvalidRequest:
            raise
        except HeliographError as failure:
            return self._service.chats.save(asked), wording.error(failure.body, is_kept=True)
        return sent, wording.note(say("sent"))

    def stream(self, bookmark: str | None, request: gr.Request) -> Iterator[Outputs]:
        """Show the answer grow, from where it is. Gives chat and line."""
        try:
            chat = self._read(bookmark, request)
        except HeliographError as failure:
            yield gr.skip(), line_of(failure)
            return

        def line(update: Update) -> str:
            got = wording.got(chat, update.end.usage) if update.end else ""
            return wording.note(update.line) + got

        seat, chats = request.session_hash or "", self._service.chats
        yield from self._answering.show(seat, chats, chat, chat, render, line, wording.error)

    def settle(self, bookmark: str | None, request: gr.Request) -> Outputs:
        """Set the buttons to what may be done now. Gives bookmark and buttons."""
        try:
            chat = self._read(bookmark, request)
        except HeliographError:
            return (gr.skip(), *buttons("failed"))
        if not chat.version:  # nothing was asked, and meanwhile something may have been
            return unchanged(1 + BUTTONS)
        # What nobody shows here any more may be taken up again.
        seat = request.session_hash or ""
        is_left = chat.under_way and seat not in self._readers
        marked = self._answering.bookmark(chat, seat)
        return (marked, *buttons("failed" if is_left else phase(chat)))

    def stop(self, bookmark: str | None, request: gr.Request) -> None:
        """Cancel the answer under way, whoever reads it; it ends with what has been said."""
        try:
            chat = self._read(bookmark, request)
        except HeliographError as failure:
            log.warning("an answer could not be stopped: %s", failure)
            return
        stop(self._service.jobs, chat)

    def leave(self, request: gr.Request) -> None:
        """Read no longer for a tab that was closed, reloaded or lost."""
        self._answering.leave(request.session_hash or "")

    def clear(self) -> Outputs:
        """Begin a new chat. Gives message and what is shown."""
        return (EMPTY, *shown(new_chat("")))
