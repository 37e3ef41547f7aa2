"""A battle as a record: two chats that go on with the same questions, and the votes on them.

As with a chat, records are replaced and never changed, and `chats` keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from broker.conversation import Chat, Kept, new_chat
from broker.feedback import Outcome
from broker.messages import GenerateRequest

Side = Literal["left", "right"]
SIDES: Final[tuple[Side, Side]] = ("left", "right")


class Battle(Kept):
    """A chat of each side, and the votes by the job of the left answer."""

    kind = "battle"

    left: Chat
    right: Chat
    anonymous: bool
    votes: Mapping[str, Outcome] = {}

    @property
    def conversations(self) -> tuple[Chat, ...]:
        """Left and right."""
        return (self.left, self.right)

    def with_each(self, change: Callable[[Chat], Chat]) -> Battle:
        """With both chats changed."""
        return self.model_copy(update={"left": change(self.left), "right": change(self.right)})

    def chat(self, side: Side) -> Chat:
        """The chat of a side."""
        return self.left if side == "left" else self.right

    def send(self, side: Side, request: GenerateRequest) -> Battle:
        """With a job under way that answers the last question on a side."""
        return self.model_copy(update={side: self.chat(side).send(request)})

    @property
    def hidden(self) -> bool:
        """Whether the names of the models must not be told: before the first vote."""
        return self.anonymous and not self.votes

    @property
    def vote(self) -> Outcome | None:
        """The vote on the last two answers."""
        return self.votes.get(self.left.last.job) if self.left.last else None

    def with_vote(self, left_job: str, outcome: Outcome) -> Battle:
        """With a vote on two answers; the first one stays."""
        return self.model_copy(update={"votes": {left_job: outcome, **self.votes}})


def new_battle(owner: str, left: str, right: str, *, anonymous: bool) -> Battle:
    """Begin a battle of two models by name, with an id that nobody guesses."""
    chat = new_chat(owner)
    return Battle(
        id=chat.id,
        owner=owner,
        left=chat.model_copy(update={"model": left}),
        right=chat.model_copy(update={"model": right}),
        anonymous=anonymous,
        created_s=chat.created_s,
    )
