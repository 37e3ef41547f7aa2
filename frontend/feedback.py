"""What people think of answers: votes on one, comparisons of two, and what they come to.

The log of votes is `broker.feedback`'s; whether addresses are kept in it is a setting.
"""

from __future__ import annotations

import redis

from broker import feedback
from broker.battles import Duels, Tally
from broker.connection import redis_errors
from broker.feedback import Outcome, Vote
from broker.proxies import behind
from broker.settings import Settings


class Feedback:
    """All votes of one Redis; every call but `kept` may raise RedisUnavailable."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        """Keep addresses if `settings` say so; no vote is read before the first call."""
        self._client = client
        self._keeps_ip = settings.log_ip == "full"
        self._tally = Tally()

    def kept(self, ip: str) -> str:
        """What the logs keep of an address; nothing of what is none."""
        return behind(ip, "", ()) if self._keeps_ip else ""

    @redis_errors()
    def vote(
        self,
        job_id: str,
        kind: Vote,
        reason: str = "",
        *,
        comment: str = "",
        ip: str = "",
        replaces: str = "",
    ) -> str:
        """Record a vote on an answer, or why it was cast; return its entry id.

        Raises:
            InvalidRequest: the kind of vote is unknown, or reason or comment is too long.
            JobNotFound: the job's record has expired or never existed.
        """
        return feedback.vote(
            self._client,
            job_id,
            kind,
            reason,
            comment=comment,
            ip=self.kept(ip),
            replaces=replaces,
        )

    @redis_errors()
    def battle(
        self,
        left_id: str,
        right_id: str,
        outcome: Outcome,
        reason: str = "",
        *,
        comment: str = "",
        ip: str = "",
        anonymous: bool = False,
    ) -> str:
        """Record which of two answers to a message is better; see `broker.feedback.battle`."""
        return feedback.battle(
            self._client,
            left_id,
            right_id,
            outcome,
            reason,
            comment=comment,
            ip=self.kept(ip),
            anonymous=anonymous,
        )

    @redis_errors()
    def compared(self, left_id: str, right_id: str) -> Outcome | None:
        """Which of two answers was found better, if they were compared."""
        return feedback.compared(self._client, left_id, right_id)

    @redis_errors()
    def duels(self) -> Duels:
        """How models fared against each other; `broker.strengths` makes a leaderboard of it."""
        return self._tally.read(self._client)
