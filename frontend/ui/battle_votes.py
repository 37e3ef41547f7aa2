"""Voting on a battle, from whichever tab or process: one vote on two answers counts."""

from __future__ import annotations

from typing import Final

from broker.errors import ChatChanged, InvalidRequest, JobNotFound
from broker.feedback import Outcome
from broker.side_by_side import Battle
from frontend.service import Service

_TOO_OLD: Final = (
    "These answers are more than a day old and cannot be compared any more. Regenerate asks both "
    "again."
)


def vote(service: Service, battle: Battle, outcome: Outcome, ip: str = "") -> Battle:
    """Have a vote on the last two answers noted; return the battle that has it.

    The log of votes decides which one counts; a battle whose vote got no further than there, as the
    process died, is given it with the next try.

    Raises:
        ChatChanged: another vote counts, and is in the battle now.
        InvalidRequest: the answers are too old.
    """
    left, right = (chat.last.job if chat.last else "" for chat in battle.conversations)
    earlier: Outcome | None = None
    try:
        service.battle(left, right, outcome, anonymous=battle.hidden, ip=ip)
    except JobNotFound:
        raise InvalidRequest(_TOO_OLD) from None
    except InvalidRequest:
        earlier = service.compared(left, right)
        if earlier is None:
            raise
    counts = earlier or outcome
    voted = service.battles.change(battle.owner, battle.id, lambda now: now.with_vote(left, counts))
    if earlier:
        raise ChatChanged(voted.kind)
    return voted
