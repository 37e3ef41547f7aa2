"""How many prompt tokens a step may take, so that running answers do not falter beside a prompt.

Learns from the steps themselves what they cost here: so much in any case, so much for each answer,
so much for each token of a prompt, and more the more there is before it. A step with a piece of a
prompt should take no more than `STRETCH` times as long as one without.
"""

from __future__ import annotations

from workers.engines.base import Batch

STRETCH = 1.75
"""Readers notice pauses of three times the usual; the machine does other things besides."""
LEAST_TOKENS = 16
UNDISTURBED = 8
"""Factor for prompts when they are alone, and at most when they outnumber the answers."""
UNDISTURBED_LOOK_S = 0.1
"""Until then a request that has just come, or is cancelled, waits for a picture of another."""
_URGENCY = 2
"""How much more the wait for a first token weighs than a pause in an answer."""
_RATE = 0.2
"""How much of what a step took longer than expected is believed."""
_UNITS = (1.0, 0.1, 0.02, 0.00002)
"""A step as such, an answer, a prompt's token, and a place before one: parts of a usual step."""


class Pace:
    """The budget of prompt tokens, step by step."""

    def __init__(self, chunk_tokens: int) -> None:
        """Allow `chunk_tokens` beside running answers, or fewer where they would take too long."""
        self._chunk_tokens = chunk_tokens
        self._costs_s = [0.0] * len(_UNITS)

    def budget(self, decodes: int, prompts: int, done: int = 0) -> int:
        """Return the prompt tokens for a step beside so many answers, with so many prompts left.

        A single prompt has to wait; the more there are beside the answers, the more they get.
        `done` is how much of the first of them is computed.
        """
        if not decodes:
            return self._chunk_tokens * UNDISTURBED
        tokens = self._chunk_tokens
        alone_s = self._expect_s(decodes, 0, 0)
        token_s = self._expect_s(decodes, 1, done) - alone_s
        if alone_s > 0 and token_s > 0:
            affordable = int((STRETCH - 1) * alone_s / token_s)
            tokens = min(tokens, max(LEAST_TOKENS, affordable))
        return int(tokens * _weight(decodes, prompts))

    def spare_s(self, decodes: int, prompts: int) -> float:
        """Return the seconds that the engine may look at pictures before a step, likewise."""
        if not decodes:
            return UNDISTURBED_LOOK_S
        return (STRETCH - 1) * self._expect_s(decodes, 0, 0) * _weight(decodes, prompts)

    def note(self, batch: Batch, seconds: float) -> None:
        """Learn from a step: what it took beyond what was expected is put down to its parts."""
        if not len(batch):
            return
        tokens = sum(chunk.stop - chunk.start for chunk in batch.prefills)
        before = sum((chunk.stop - chunk.start) * chunk.start for chunk in batch.prefills)
        parts = _parts(len(batch.decodes), tokens, before)
        missed_s = seconds - self._expect_s(len(batch.decodes), tokens, before)
        share = _RATE * missed_s / sum(part * part for part in parts)
        self._costs_s = [
            cost + share * part for cost, part in zip(self._costs_s, parts, strict=True)
        ]

    def _expect_s(self, decodes: int, tokens: int, before: int) -> float:
        parts = _parts(decodes, tokens, before)
        return sum(cost * part for cost, part in zip(self._costs_s, parts, strict=True))


def _weight(decodes: int, prompts: int) -> float:
    """How much of a step's time prompts get where they are many beside the answers."""
    return min(UNDISTURBED, 1 + _URGENCY * (prompts - 1) / decodes)


def _parts(decodes: int, tokens: int, before: int) -> list[float]:
    return [unit * count for unit, count in zip(_UNITS, (1, decodes, tokens, before), strict=True)]
