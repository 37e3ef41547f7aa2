"""Whether a question may be sent: asks the gate of `frontend.moderation`, if there is one."""

from __future__ import annotations

from broker.conversation import Chat
from frontend.moderation.gate import Gate
from frontend.service import Service


class Judge:
    """One for all pages of a process."""

    def __init__(self, service: Service, gate: Gate | None = None) -> None:
        """Without a gate everything may be sent; pictures come from `service`."""
        self._service = service
        self._gate = gate

    def check(self, asked: Chat) -> None:
        """Let the last question of a chat pass, and its system prompt.

        Raises:
            ContentFlagged, ModerationUnavailable, RedisUnavailable: see `frontend.moderation`.
        """
        if self._gate is not None:
            question = asked.turns[-1].question
            pictures = [self._service.image(sha256) for sha256 in question.images]
            self._gate.check(f"{asked.system}\n{question.text}", pictures, subject=asked.id)
