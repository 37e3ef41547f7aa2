"""Voting on a battle, from whichever tab or process: one vote on two answers counts."""

from __future__ import annotations

from typing import Final

from broker.errors import InvalidRequest, JobNotFound
from broker.feedback import Outcome
from broker.side_by_side import Battle
from frontend.service import Service
from frontend.ui.language import say

_TOO_OLD: Final = (
    "These answers are more than a day old and cannot be compared any more. Regenerate asks both "
    "again."
)


def vote(service: Service, battle: Battle, outcome: Outcome, ip: str = "") -> Battle:
    """Have a vote on the last two answers noted; return the battle with the vote that counts.

    The log of votes decides which one does. A battle whose vote got no further than there, as the
    process died, is given it with the next try.

    Raises:
        InvalidRequest: the answers are too old.
    """
    left, right = (chat.last.job if chat.last else "" for chat in battle.conversations)
    counts = outcome
    try:
        service.feedback.battle(left, right, outcome, anonymous=battle.hidden, ip=ip)
    except JobNotFound:
        raise InvalidRequest(say(_TOO_OLD)) from None
    except InvalidRequest:
        earlier = service.feedback.compared(left, right)
        if earlier is None:
            raise
        counts = earlier
    return service.battles.change(battle.owner, battle.id, lambda now: now.with_vote(left, counts))
