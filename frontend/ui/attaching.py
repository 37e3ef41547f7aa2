"""What may be attached to a message: said in advance, and looked at as soon as it is there."""

from __future__ import annotations

from typing import Final

import gradio as gr

from broker.conversation import Chat
from broker.errors import InvalidRequest, RequestTooLarge
from broker.messages import ModelInfo
from broker.settings import Settings
from frontend.pictures import FORMATS
from frontend.service import Service
from frontend.ui import wording
from frontend.ui.conversation import Bookmark
from frontend.ui.language import say
from frontend.ui.message_box import Message
from frontend.ui.shown import line_of, owner
from frontend.ui.uploads import Uploads


class Attaching:
    """The pictures of the message that is being written."""

    def __init__(self, service: Service, uploads: Uploads) -> None:
        """Take limits and models from the service, and pictures from `uploads`."""
        self._service = service
        self._uploads = uploads

    def look(
        self, bookmark: str | None, model: str | None, message: Message, request: gr.Request
    ) -> str:
        """Tell what may be sent, or why what is in the box may not. Gives the line below it."""
        try:
            chat_id = Bookmark.parse(bookmark).chat
            chat = self._service.chats.read(owner(request), chat_id) if chat_id else None
            self.store(chat, model, message)
            info = self._find(model)
        except Exception as failure:
            return line_of(failure)
        return wording.note(limits(self._service.settings, info, len(chat.images) if chat else 0))

    def store(self, chat: Chat | None, model: str | None, message: Message) -> tuple[str, ...]:
        """Check and store what is to be added to a chat; return the SHA-256 of each picture.

        Raises:
            InvalidRequest: the model takes no pictures.
            RequestTooLarge: there are too many, or one is too large.
            InvalidImage: one is not a picture that can be read.
        """
        files = message["files"]
        if files:
            used = len(chat.images) if chat else 0
            check(self._service.settings, self._find(model), used, len(files))
        return self._uploads.store(files)

    def _find(self, model: str | None) -> ModelInfo | None:
        return next((info for info in self._service.fleet.models() if info.name == model), None)


_EACH: Final = "in this chat, each up to {size} and {pixels:g} million pixels: {formats}"
_ROOM: Final = {
    (False, False): "Up to {left} pictures " + _EACH,
    (False, True): "Up to {left} picture " + _EACH,
    (True, False): "{left} more pictures " + _EACH,
    (True, True): "{left} more picture " + _EACH,
}
"""By whether the chat has pictures, and whether there is room for one only."""
_FULL: Final = "This chat has {used} pictures, which is the limit. Clear begins a new one."


def limits(settings: Settings, info: ModelInfo | None, used: int) -> str:
    """One sentence in advance: what a model takes, in a chat that has `used` pictures."""
    if info is not None and _is_blind(info):
        return say("{model} reads text only: it takes no pictures.", model=info.name)
    left = settings.max_images - used
    if left <= 0:
        return say(_FULL, used=used)
    return say(
        _ROOM[bool(used), left == 1],
        left=left,
        size=_size(settings.max_image_bytes),
        pixels=settings.max_image_pixels / 1e6,
        formats=", ".join(FORMATS),
    )


def _size(count: int) -> str:
    return f"{count / 2**20:g} MB" if count >= 2**20 else f"{count / 2**10:g} KB"


_EXCESS: Final = {
    False: "A chat may have {most} pictures; here are {added}. Remove {excess} of them, or begin a "
    "new chat.",
    True: "A chat may have {most} pictures; this chat has {used} and the message {added}. Remove "
    "{excess} of them, or begin a new chat.",
}
"""By whether the chat has pictures."""


def check(settings: Settings, info: ModelInfo | None, used: int, added: int) -> None:
    """Look whether a model takes `added` pictures in a chat that has `used` already.

    Raises:
        InvalidRequest: it takes none.
        RequestTooLarge: they are too many.
    """
    if info is not None and _is_blind(info):
        raise InvalidRequest(
            say(
                "{model} reads text only. Remove the pictures, or choose another model.",
                model=info.name,
            )
        )
    excess = used + added - settings.max_images
    if excess > 0:
        raise RequestTooLarge(
            say(
                _EXCESS[bool(used)],
                most=settings.max_images,
                used=used,
                added=added,
                excess=min(excess, added),
            )
        )


def _is_blind(info: ModelInfo) -> bool:
    return bool(info.ready) and not info.images
