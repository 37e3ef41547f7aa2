"""One request while it is generated: its ids, how far they are cached, and why it ended.

Nothing here knows of tensors, of Redis or of the other sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from broker.errors import ContextLengthExceeded
from broker.events import FinishReason, SeenImage, Usage
from broker.messages import SamplingParams
from workers.detokenize import Detokenizer

DEFAULT_MAX_TOKENS = 1024
"""Longest answer to a request that names no `max_tokens`, if the context has room for it."""


Spell = Callable[[int], bytes]


def _no_bytes(token_id: int) -> bytes:
    return b""


@dataclass(eq=False, slots=True)
class Sequence:
    """A request's tokens: `prompt_ids`, then what has been generated.

    `cached` counts the leading ids whose keys and values the engine holds, `reused` those that it
    held before this sequence came. `slot` is the engine's place for them, or None; `payload` is
    what else it needs, such as pixels, and `draws` what it keeps for sampling. `stop_ids` are the
    tokens that end this answer. `joints` are stretches of the prompt, in order, that have to be
    computed in one pass. `images` says what became of the prompt's pictures. `spell` gives the
    bytes that a token stands for. `tail` is text that was held back until the answer ended.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    max_tokens: int
    eos_ids: frozenset[int]
    detokenizer: Detokenizer
    payload: object = None
    joints: tuple[range, ...] = ()
    images: tuple[SeenImage, ...] = ()
    spell: Spell = _no_bytes
    output_ids: list[int] = field(default_factory=list)
    ids: list[int] = field(init=False)
    stop_ids: frozenset[int] = field(init=False)
    draws: object = None
    cached: int = 0
    reused: int = 0
    slot: int | None = None
    finish_reason: FinishReason | None = None
    tail: str = ""

    def __post_init__(self) -> None:
        self.ids = [*self.prompt_ids, *self.output_ids]
        eos_ids = frozenset[int]() if self.sampling.ignore_eos else self.eos_ids
        self.stop_ids = eos_ids | frozenset(self.sampling.stop_token_ids)

    @property
    def is_decoding(self) -> bool:
        """Whether the newest generated token is the only one that is not cached."""
        return bool(self.output_ids) and self.cached == len(self.ids) - 1

    @property
    def usage(self) -> Usage:
        """Tokens so far; image tokens count as prompt tokens."""
        prompt = len(self.prompt_ids)
        return Usage(prompt, len(self.output_ids), min(self.reused, prompt), self.images)

    def cut(self, stop: int) -> int:
        """Return where the next piece of the prompt may end, at `stop` or soon behind it."""
        for joint in self.joints:
            if joint.start < stop < joint.stop:
                return joint.stop
        return stop

    def append(self, token_id: int) -> str:
        """Take a generated token, find out whether it ends the answer, return the new text."""
        self.output_ids.append(token_id)
        self.ids.append(token_id)
        if token_id in self.stop_ids and len(self.output_ids) > self.sampling.min_tokens:
            self.finish("stop")
            return self.tail
        text = self.detokenizer.push(token_id)
        if self.detokenizer.stopped:
            self.finish_reason = "stop"
        elif len(self.output_ids) >= self.max_tokens:
            self.finish("length")
        return text + self.tail

    def resume(self, token_ids: Iterable[int]) -> None:
        """Take over tokens of an earlier attempt, whose text the reader already has."""
        for token_id in token_ids:
            if self.finish_reason is not None:
                return
            self.append(token_id)

    def finish(self, reason: FinishReason) -> None:
        """End the answer where it is."""
        self.finish_reason = reason
        self.tail = self.detokenizer.flush()


def answer_room(prompt_tokens: int, max_tokens: int | None, context_length: int) -> int:
    """Tokens that an answer may have: what was asked for, or a default, within the context.

    Raises:
        ContextLengthExceeded: the prompt alone fills the context.
    """
    room = context_length - prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"The conversation needs {prompt_tokens} tokens, text and images together, but the "
            f"model holds {context_length} including the answer. Shorten the conversation, or "
            "send fewer images or fewer tiles per image.",
            param="messages",
        )
    return min(room, max_tokens or DEFAULT_MAX_TOKENS)
