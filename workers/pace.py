"""How many prompt tokens a step may take, so that running answers do not falter beside a prompt.

Learns from the steps themselves what they cost here: from those without a prompt so much in any
case and so much for each answer, from the others so much for each token of a prompt, and more the
more there is before it. A step with a piece of a prompt should take no more than `STRETCH` times as
long as one without.
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
MEASURED_EVERY = 16
"""Steps with prompts until one must do without: where prompts never end, what answers cost could
not be told from what prompts do."""
_URGENCY = 2
"""How much more the wait for a first token weighs than a pause in an answer."""
_RATE = 0.2
"""How much of what a step took longer than expected is believed."""


class Pace:
    """The budget of prompt tokens, step by step."""

    def __init__(self, chunk_tokens: int) -> None:
        """Allow `chunk_tokens` beside running answers, or fewer where they would take too long."""
        self._chunk_tokens = chunk_tokens
        # Units are parts of a usual step: an answer is a tenth of it, a prompt's token a fiftieth.
        self._alone = _Costs(1.0, 0.1)
        self._prompt = _Costs(0.02, 0.00002)
        self._unmeasured = MEASURED_EVERY

    def budget(self, decodes: int, prompts: int, done: int = 0) -> int:
        """Return the prompt tokens for a step beside so many answers, with so many prompts left.

        A single prompt has to wait; the more there are beside the answers, the more they get.
        `done` is how much of the first of them is computed. Now and then there are none at all.
        """
        if not decodes:
            return self._chunk_tokens * UNDISTURBED
        if self._unmeasured >= MEASURED_EVERY:
            return 0
        tokens = self._chunk_tokens
        token_s = self._prompt.of(1, done)
        if token_s > 0:
            affordable = int((STRETCH - 1) * self._alone.of(1, decodes) / token_s)
            tokens = min(tokens, max(LEAST_TOKENS, affordable))
        return int(tokens * _weight(decodes, prompts))

    def spare_s(self, decodes: int, prompts: int) -> float:
        """Return the seconds that the engine may look at pictures before a step, likewise."""
        if not decodes:
            return UNDISTURBED_LOOK_S
        return (STRETCH - 1) * self._alone.of(1, decodes) * _weight(decodes, prompts)

    def note(self, batch: Batch, seconds: float) -> None:
        """Learn from a step."""
        decodes = len(batch.decodes)
        if batch.prefills:
            tokens = sum(chunk.stop - chunk.start for chunk in batch.prefills)
            before = sum((chunk.stop - chunk.start) * chunk.start for chunk in batch.prefills)
            self._prompt.learn(seconds - self._alone.of(1, decodes), tokens, before)
            self._unmeasured += 1
        elif decodes:
            self._alone.learn(seconds, 1, decodes)
            self._unmeasured = 0


class _Costs:
    """What things of two kinds cost, in seconds."""

    def __init__(self, *units: float) -> None:
        self._units = units
        self._costs_s = [0.0] * len(units)

    def of(self, *counts: int) -> float:
        """So many of each."""
        parts = self._parts(counts)
        return sum(cost * part for cost, part in zip(self._costs_s, parts, strict=True))

    def learn(self, seconds: float, *counts: int) -> None:
        """Put what so many took beyond what was expected down to them."""
        parts = self._parts(counts)
        share = _RATE * (seconds - self.of(*counts)) / sum(part * part for part in parts)
        self._costs_s = [
            cost + share * part for cost, part in zip(self._costs_s, parts, strict=True)
        ]

    def _parts(self, counts: tuple[int, ...]) -> list[float]:
        return [unit * count for unit, count in zip(self._units, counts, strict=True)]


def _weight(decodes: int, prompts: int) -> float:
    """How much of a step's time prompts get where they are many beside the answers."""
    return min(UNDISTURBED, 1 + _URGENCY * (prompts - 1) / decodes)
