"""How many prompt tokens a step may take, so that running answers do not falter beside a prompt.

Learns from the steps themselves what decoding and a prompt's token cost here: a step with a piece
of a prompt should take no more than `STRETCH` times as long as one without.
"""

from __future__ import annotations

from workers.engines.base import Batch

STRETCH = 2.0
"""Readers notice pauses of three times the usual; the machine does other things besides."""
LEAST_TOKENS = 16
UNDISTURBED = 8
"""Factor for prompts when they are alone, and at most when they outnumber the answers."""
_URGENCY = 4
"""How much more the wait for a first token weighs than a pause in an answer."""
_MEMORY = 0.8


class Pace:
    """The budget of prompt tokens, step by step."""

    def __init__(self, chunk_tokens: int) -> None:
        """Allow `chunk_tokens` beside running answers, or fewer where they would take too long."""
        self._chunk_tokens = chunk_tokens
        self._decode_s = 0.0
        self._token_s = 0.0

    def budget(self, decodes: int, prompts: int) -> int:
        """Return the prompt tokens for a step beside so many answers, with so many prompts left.

        A single prompt has to wait; the more there are beside the answers, the more they get.
        """
        if not decodes:
            return self._chunk_tokens * UNDISTURBED
        tokens = self._chunk_tokens
        if self._decode_s and self._token_s:
            affordable = int((STRETCH - 1) * self._decode_s / self._token_s)
            tokens = min(tokens, max(LEAST_TOKENS, affordable))
        return tokens * min(UNDISTURBED, 1 + _URGENCY * (prompts - 1) // decodes)

    def note(self, batch: Batch, seconds: float) -> None:
        """Learn from a step."""
        tokens = sum(chunk.stop - chunk.start for chunk in batch.prefills)
        if not tokens and batch.decodes:
            self._decode_s = _blend(self._decode_s, seconds)
        elif tokens >= LEAST_TOKENS:
            decode_s = self._decode_s if batch.decodes else 0.0
            self._token_s = _blend(self._token_s, max(0.0, seconds - decode_s) / tokens)


def _blend(known: float, new: float) -> float:
    return _MEMORY * known + (1 - _MEMORY) * new if known else new
