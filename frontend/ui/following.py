"""What other tabs have made of the chat or battle that a tab shows."""

from __future__ import annotations

from broker.chats import K, Store
from broker.errors import HeliographError
from frontend.ui.conversation import Bookmark


def newer(store: Store[K], bookmark: str | None, owner: str) -> K | None:
    """Read what a tab shows if it has changed since, and can be read."""
    mark = Bookmark.parse(bookmark)
    try:
        if mark.chat and store.version(mark.chat) > mark.version:
            return store.read(owner, mark.chat)
    except HeliographError:
        pass  # the next look may have better luck, and whoever asks here is told
    return None
