"""Asks the moderators, logs what they decided, and refuses what they flag.

What happens when one gives no verdict is a setting: `closed` refuses, `open` lets pass. The log,
`helio:log:moderation`, has neither the text nor the pictures, but for their SHA-256.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import redis

from broker import images, keys
from broker.connection import redis_errors
from broker.errors import ContentFlagged, ModerationUnavailable
from broker.settings import Settings
from frontend.moderation.endpoint import Endpoint
from frontend.moderation.verdict import ModerationFailed, Moderator, Verdict
from frontend.moderation.words import WordList

log = logging.getLogger(__name__)


class Gate:
    """What a message passes before it is sent; may be used from many threads."""

    def __init__(
        self, client: redis.Redis, moderators: Sequence[Moderator], *, fails_open: bool
    ) -> None:
        """Ask the moderators in this order; `fails_open` lets pass when one gives no verdict."""
        self._redis = client
        self._moderators = moderators
        self._fails_open = fails_open

    @classmethod
    def from_settings(cls, client: redis.Redis, settings: Settings) -> Gate:
        """Make the gate that the settings describe.

        Raises:
            ConfigurationError: the word list cannot be used.
        """
        moderators: list[Moderator] = []
        if settings.moderation_words or not settings.moderation_url:
            moderators.append(WordList.load(settings.moderation_words))
        if settings.moderation_url:
            moderators.append(
                Endpoint(
                    settings.moderation_url,
                    key=settings.moderation_key,
                    model=settings.moderation_model,
                    timeout_s=settings.moderation_timeout_s,
                )
            )
        return cls(client, moderators, fails_open=settings.moderation_failure == "open")

    def check(self, text: str, pictures: Sequence[bytes] = (), *, subject: str = "") -> None:
        """Let a message pass or say why not.

        Args:
            text: what was written; all of it that is new.
            pictures: each as it was uploaded.
            subject: what the log shall name, such as the conversation's id.

        Raises:
            ContentFlagged: a moderator flags it.
            ModerationUnavailable: one gave no verdict, and the gate is closed then.
            RedisUnavailable: the decision cannot be logged.
        """
        for moderator in self._moderators:
            began = time.monotonic()
            verdict = _ask(moderator, text, pictures)
            flagged = verdict is not None and verdict.flagged
            categories = verdict.categories if verdict and flagged else ()
            fields = {
                "moderator": moderator.name,
                "decision": "failed" if verdict is None else "flagged" if flagged else "allowed",
                "categories": ", ".join(categories),
                "failure": "open" if self._fails_open else "closed",
                "characters": str(len(text)),
                "images": " ".join(map(images.digest, pictures)),
                "subject": subject,
                "ms": f"{1000 * (time.monotonic() - began):.0f}",
            }
            with redis_errors():
                self._redis.xadd(
                    keys.MODERATION_LOG,
                    fields,  # type: ignore[arg-type]
                    maxlen=keys.MODERATION_LOG_LENGTH,
                    approximate=True,
                )
            if flagged:
                raise ContentFlagged(categories)
            if verdict is None and not self._fails_open:
                raise ModerationUnavailable()


def _ask(moderator: Moderator, text: str, pictures: Sequence[bytes]) -> Verdict | None:
    """The moderator's verdict; None, and a line in the log, if it gave none."""
    try:
        return moderator.judge(text, pictures)
    except ModerationFailed as error:
        log.warning("moderation by %s failed: %s", moderator.name, error)
        return None
