"""The events of voting on an answer and of saying why: each method is one, as in `handlers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gradio as gr

from broker.chats import Chats
from broker.conversation import Answer, Chat
from broker.errors import HeliographError, InvalidRequest
from broker.feedback import Vote
from frontend.feedback import Feedback
from frontend.ui import wording
from frontend.ui.conversation import Bookmark, phase
from frontend.ui.language import say
from frontend.ui.shown import BUTTONS, Outputs, address, buttons, line_of, owner, unchanged

REASONS: Final[dict[Vote, tuple[str, ...]]] = {
    "upvote": ("correct", "complete", "clear", "well seen"),
    "downvote": ("wrong", "not about the picture", "incomplete", "too long", "not what I asked"),
    "flag": ("unsafe", "offensive", "private data", "illegal"),
}

PANEL: Final = 5
"""The panel, its reasons, its comment, what was said, and which vote is asked about: the order of
`refresh`."""


class Votes:
    """One vote for each answer, and once why."""

    def __init__(self, chats: Chats, feedback: Feedback) -> None:
        """Note votes in `chats` and in `feedback`."""
        self._chats = chats
        self._feedback = feedback

    def cast(self, kind: Vote) -> Callable[[str | None, gr.Request], Outputs]:
        """Make the event of a vote button. It gives line, bookmark and buttons."""

        def vote(bookmark: str | None, request: gr.Request) -> Outputs:
            try:
                chat, answer = self._answer(bookmark, request)
                if phase(chat) != "answered":
                    return unchanged(2 + BUTTONS)
                entry = self._feedback.vote(answer.job, kind, ip=address(request))
                chat = self._chats.change(
                    chat.owner, chat.id, lambda now: now.with_vote(answer.job, kind, entry)
                )
            except Exception as failure:
                return (line_of(failure), *unchanged(1 + BUTTONS))
            return (gr.skip(), str(Bookmark.of(chat)), *buttons(phase(chat)))

        return vote

    def refresh(self, bookmark: str | None, asked: str, request: gr.Request) -> Outputs:
        """Thank for a vote, and ask why if that is not known. Gives the panel's components.

        What is written already stays when another thing of the chat has changed.
        """
        try:
            _, answer = self._answer(bookmark, request)
        except HeliographError:
            return (gr.update(visible=False), *unchanged(2), "", "")
        is_asked = answer.vote is not None and not (answer.reason or answer.comment)
        about = f"{answer.job} {answer.vote}" if is_asked else ""
        if about and about == asked:
            return unchanged(PANEL)
        return (
            gr.update(visible=is_asked),
            gr.update(choices=_choices(answer.vote), value=[]),
            "",
            wording.said(answer),
            about,
        )

    def tell(
        self,
        bookmark: str | None,
        reasons: list[str] | None,
        comment: str | None,
        request: gr.Request,
    ) -> Outputs:
        """Keep why the last answer was voted on. Gives line and bookmark."""
        try:
            chat, answer = self._answer(bookmark, request)
            kind = answer.vote
            if kind is None or answer.reason or answer.comment:
                return unchanged(2)
            reason = ", ".join(each for each in REASONS[kind] if each in (reasons or ()))
            words = (comment or "").strip()
            if not (reason or words):
                raise InvalidRequest(say("Choose a reason or write a comment, or skip it."))
            entry = self._feedback.vote(
                answer.job,
                kind,
                reason,
                comment=words,
                ip=address(request),
                replaces=answer.vote_entry,
            )
            chat = self._chats.change(
                chat.owner,
                chat.id,
                lambda now: now.with_vote(answer.job, kind, entry, reason, words),
            )
        except Exception as failure:
            return (line_of(failure), gr.skip())
        return (wording.last(chat), str(Bookmark.of(chat)))

    def _answer(self, bookmark: str | None, request: gr.Request) -> tuple[Chat, Answer]:
        """The chat that a tab shows, and its last answer.

        Raises:
            ChatChanged, ChatNotFound, InvalidRequest: it shows none, or another one.
        """
        shown = Bookmark.parse(bookmark)
        chat = self._chats.read(owner(request), shown.chat)
        shown.check(chat)
        if chat.last is None:
            raise InvalidRequest(say("There is no answer to vote on yet."))
        return chat, chat.last


def _choices(kind: Vote | None) -> list[tuple[str, str]]:
    return [(say(reason), reason) for reason in REASONS[kind]] if kind else []
