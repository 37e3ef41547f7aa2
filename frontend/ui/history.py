"""The events of the list of chats and of the menu of one: each method is one, as in `handlers`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from html import escape
from typing import Final

import gradio as gr

from broker.chats import Chats, Entry
from broker.conversation import Chat, Kind, new_chat
from broker.errors import HeliographError
from frontend.jobs import Jobs
from frontend.ui import wording
from frontend.ui.conversation import Bookmark
from frontend.ui.language import say
from frontend.ui.shown import SHOWN, Outputs, base_url, line_of, owner, shown, unchanged
from frontend.ui.web import EXPORTS

MENU = 7
"""Title, link, files, the buttons Share, Stop sharing and Delete, and the question whether to
delete: the order of `_menu`."""


class History:
    """What chats an owner has, and what is done with one besides asking."""

    def __init__(self, chats: Chats, jobs: Jobs) -> None:
        """Look into `chats`; cancel `jobs` of one that is deleted."""
        self._chats = chats
        self._jobs = jobs

    def refresh(self, bookmark: str | None, search: str | None, request: gr.Request) -> Outputs:
        """Bring list and menu up to date. Gives the list and the menu."""
        open_id = Bookmark.parse(bookmark).chat
        try:
            chat = self._chats.read(owner(request), open_id) if open_id else new_chat("")
            return (self.search(bookmark, search, request), *_menu(chat, request))
        except HeliographError as failure:
            return (wording.error(failure.body), *unchanged(MENU))

    def search(self, bookmark: str | None, words: str | None, request: gr.Request) -> str:
        """List the chats whose titles have all these words. Gives the list."""
        try:
            entries = self._chats.entries(owner(request))
        except HeliographError as failure:
            return wording.error(failure.body)
        wanted = (words or "").casefold().split()
        found = [each for each in entries if all(word in each.title.casefold() for word in wanted)]
        if entries and not found:
            return wording.note(say("No title has these words."))
        return as_list(found, Bookmark.parse(bookmark).chat, "chat")

    def rename(self, bookmark: str | None, title: str | None, request: gr.Request) -> Outputs:
        """Give the open chat another title. Gives line and bookmark."""
        return self._change(bookmark, request, lambda chat: chat.with_title(title or ""))

    def share(self, bookmark: str | None, request: gr.Request) -> Outputs:
        """Make a link that shows the open chat. Gives line and bookmark."""
        token = secrets.token_urlsafe(16)
        return self._change(bookmark, request, lambda chat: chat.with_link(chat.share or token))

    def revoke(self, bookmark: str | None, request: gr.Request) -> Outputs:
        """Have the link of the open chat show nothing any more. Gives line and bookmark."""
        return self._change(bookmark, request, lambda chat: chat.with_link(""))

    def delete(self, bookmark: str | None, request: gr.Request) -> Outputs:
        """Delete the open chat and stop its answer. Gives what is shown."""
        try:
            chat = self._chats.read(owner(request), Bookmark.parse(bookmark).chat)
            if chat.under_way:
                self._jobs.cancel(chat.under_way.job)
            self._chats.delete(chat)
        except Exception as failure:
            return (gr.skip(), line_of(failure), *unchanged(SHOWN - 2))
        return shown(new_chat(""), wording.note(say("deleted")))

    def _change(
        self, bookmark: str | None, request: gr.Request, how: Callable[[Chat], Chat]
    ) -> Outputs:
        was = Bookmark.parse(bookmark)
        if not was.chat:
            return unchanged(2)
        try:
            chat = self._chats.change(owner(request), was.chat, how)
        except Exception as failure:
            return (line_of(failure), gr.skip())
        # A tab that shows an older version goes on to say so.
        return (gr.skip(), str(Bookmark.of(chat)) if chat.version == was.version + 1 else gr.skip())


def as_list(entries: Iterable[Entry], open_id: str, kind: Kind) -> str:
    """Records of a kind as links, the open one marked."""
    page = "battle" if kind == "battle" else ""
    items = "".join(
        f'<li><a href="{page}?{kind}={each.id}"{_CURRENT if each.id == open_id else ""} '
        f'dir="auto">{escape(each.title)}</a></li>'
        for each in entries
    )
    if not items:
        return wording.note(say(_NONE[kind]))
    return f'<nav aria-label="{say(_LISTS[kind])}"><ul class="chats">{items}</ul></nav>'


_LISTS: Final[dict[Kind, str]] = {"chat": "Chats", "battle": "Battles"}
_NONE: Final[dict[Kind, str]] = {"chat": "No chats yet.", "battle": "No battles yet."}
_CURRENT = ' aria-current="page"'


def _menu(chat: Chat, request: gr.Request) -> Outputs:
    is_kept, base = chat.version > 0, base_url(request)
    files = " · ".join(
        f'<a href="{EXPORTS}/{chat.id}.{ending}" download>{name}</a>'
        for ending, name in (("md", "Markdown"), ("json", "JSON"))
    )
    return (
        gr.update(value=chat.title, interactive=is_kept),
        gr.update(value=f"{base}?share={chat.share}", visible=bool(chat.share)),
        f'<p class="line">{say("Download as {files}", files=files)}</p>' if is_kept else "",
        gr.update(interactive=is_kept, visible=not chat.share),
        gr.update(visible=bool(chat.share)),
        gr.update(interactive=is_kept),
        gr.update(visible=False),
    )
