"""Whether a question may be sent: by the terms of use, and the gate of `frontend.moderation`."""

from __future__ import annotations

from collections.abc import Mapping

from broker.conversation import Chat
from frontend.moderation.gate import Gate
from frontend.picture_store import PictureStore
from frontend.ui.terms import Terms


class Judge:
    """One for all pages of a process."""

    def __init__(self, store: PictureStore, terms: Terms, gate: Gate | None = None) -> None:
        """Without a gate nothing is moderated; pictures come from `store`."""
        self._store = store
        self._terms = terms
        self._gate = gate

    def check(self, asked: Chat, cookies: Mapping[str, str]) -> None:
        """Let the last question of a chat pass, and its system prompt, from a browser.

        Raises:
            NotAgreed: it has not agreed to the terms of use.
            ContentFlagged, ModerationUnavailable, RedisUnavailable: see `frontend.moderation`.
        """
        self._terms.check(cookies)
        if self._gate is not None:
            question = asked.turns[-1].question
            pictures = [self._store.read(sha256) for sha256 in question.images]
            self._gate.check(f"{asked.system}\n{question.text}", pictures, subject=asked.id)
