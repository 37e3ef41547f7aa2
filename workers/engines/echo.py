"""An engine without a model: it answers with the last message's words, at a settable speed.

It is a real engine for everything that is not a model: load tests, demonstrations of the queue, and
the tests of all parts around an engine. Its options ride on the model path like a query string:

    echo?tokens_per_s=20&prefill_s=0.05&tokens=200&context_length=8192

`tokens_per_s` is the speed of each stream (0, the default: as fast as it can), `prefill_s` the time
that one prompt takes, `tokens` the length of the answer, for which the words are repeated or cut
(0, the default: each word once). After `breaks_after` tokens altogether the engine breaks, as one
on a GPU does by a CUDA error, and after `hangs_after` it never comes back from a pass (0, the
defaults: never). With `images=0` it takes no pictures. A token is a word with the blanks before it;
its id is its place in the answer, from 1, and id 0 ends the answer; with `min_tokens` or
`ignore_eos` the words start over instead. It does not sample: temperature, filters, penalties and
bias change nothing, and log-probabilities, which it does not have, are refused.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qsl

from broker.errors import ConfigurationError, InvalidRequest
from broker.messages import ChatMessage, GenerateRequest, TextPart, pictures, ready_prompt
from workers.detokenize import Detokenizer
from workers.engines.base import Batch, EngineBroken, EngineOptions, Loading, Sampled
from workers.images import load_image
from workers.sequence import Sequence, answer_room
from workers.templates.reading import read

_END = 0
_WORD = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True, slots=True)
class EchoOptions:
    """What the model path of an echo engine may set."""

    tokens_per_s: float = 0.0
    prefill_s: float = 0.0
    tokens: int = 0
    context_length: int = 8192
    breaks_after: int = 0
    hangs_after: int = 0
    images: int = 1

    @classmethod
    def parse(cls, model_path: str) -> EchoOptions:
        """Read `name?key=value&...`.

        Raises:
            ConfigurationError: a key is unknown, or a value is not a number or negative.
        """
        defaults = asdict(cls())
        values: dict[str, Any] = {}
        for key, text in parse_qsl(model_path.partition("?")[2], keep_blank_values=True):
            if key not in defaults:
                raise ConfigurationError(f"echo: {key!r} is not one of: {', '.join(defaults)}")
            try:
                values[key] = type(defaults[key])(text)
            except ValueError:
                raise ConfigurationError(f"echo: {key}={text!r} is not a number") from None
            if values[key] < 0:
                raise ConfigurationError(f"echo: {key}={text!r} is negative")
        return cls(**values)


class EchoEngine:
    """Answers with the words of the last user message, and with a word for each of its pictures."""

    name = "echo"
    device = "cpu"
    chunk_tokens = 1_000_000

    def __init__(self, options: EngineOptions, progress: Loading) -> None:
        self._echo = EchoOptions.parse(options.model_path)
        self.images = self._echo.images > 0
        self.slots = options.slots
        self.context_length = options.context_length or self._echo.context_length
        self._max_image_pixels = options.max_image_pixels
        self._busy_until_s = 0.0
        self._told = 0
        progress(100)

    def prepare(
        self,
        request: GenerateRequest,
        images: Mapping[str, bytes],
        resume_ids: tuple[int, ...] = (),
    ) -> Sequence:
        """See `Engine.prepare`; a word and a picture are a token each."""
        if request.sampling.logprobs is not None:
            raise InvalidRequest(
                "logprobs: this model repeats words and has no probabilities. Leave logprobs out.",
                param="logprobs",
            )
        for sha256 in dict.fromkeys(request.images):
            load_image(images.get(sha256, b""), self._max_image_pixels)
        messages = _conversation(request)
        words = _answer_words(messages)
        texts = (message.text for message in messages)
        prompt_tokens = sum(len(text.split()) for text in texts) + len(request.images)
        sequence = Sequence(
            request_id=request.id,
            prompt_ids=(1,) * max(1, prompt_tokens),
            sampling=request.sampling,
            max_tokens=answer_room(prompt_tokens, request.sampling.max_tokens, self.context_length),
            eos_ids=frozenset((_END,)),
            detokenizer=Detokenizer(
                _decoder(words), request.sampling.stop, request.sampling.min_tokens
            ),
            payload=self._echo.tokens or len(words),
        )
        sequence.resume(resume_ids)
        return sequence

    def count_tokens(self, text: str) -> int:
        """See `Engine.count_tokens`; a word is a token."""
        return len(text.split())

    def admit(self, sequence: Sequence) -> bool:
        """See `Engine.admit`; an echo needs no room."""
        return True

    def ready(self, sequence: Sequence) -> int:
        """See `Engine.ready`; an echo does not look at pictures."""
        return len(sequence.ids)

    def look(self, sequence: Sequence, deadline_s: float) -> None:
        """See `Engine.look`."""

    def step(self, batch: Batch) -> list[Sampled | None]:
        """See `Engine.step`; takes as long as the options say."""
        if 0 < self._echo.breaks_after <= self._told:
            raise EngineBroken(f"echo: {self._told} tokens were told, breaks_after is reached")
        if 0 < self._echo.hangs_after <= self._told:
            threading.Event().wait()
        ready = [chunk.is_last for chunk in batch.prefills]
        cost_s = self._echo.prefill_s * sum(ready)
        if self._echo.tokens_per_s and batch.decodes:
            cost_s += 1.0 / self._echo.tokens_per_s
        self._spend(cost_s)
        ready += [True] * len(batch.decodes)
        self._told += sum(ready)
        return [
            Sampled(_next_token(sequence)) if is_ready else None
            for sequence, is_ready in zip(batch.sequences, ready, strict=True)
        ]

    def release(self, sequence: Sequence) -> None:
        """See `Engine.release`; an echo holds nothing."""

    def _spend(self, cost_s: float) -> None:
        """Let time pass, the caller's own time since the last step included, as a GPU would."""
        now = time.monotonic()
        if now - self._busy_until_s > cost_s:
            self._busy_until_s = now
        self._busy_until_s += cost_s
        if self._busy_until_s > now:
            time.sleep(self._busy_until_s - now)


def _conversation(request: GenerateRequest) -> tuple[ChatMessage, ...]:
    """The request's messages; a ready prompt is read back, or else is all the user's words."""
    prompt = ready_prompt(request.messages)
    if prompt is None:
        return request.messages
    found = read(prompt.content)
    return found[1] if found else (ChatMessage(role="user", content=prompt.content),)


def _answer_words(messages: tuple[ChatMessage, ...]) -> list[str]:
    """Split the last user message into words, a picture being `[image 1a2b3c4d]`."""
    asked = [message for message in messages if message.role == "user"]
    content = asked[-1].content if asked else ()
    text = ""
    for part in content:
        if isinstance(part, TextPart):
            text += part.text
        else:
            names = "".join(f"[image\u00a0{sha[:8]}] " for sha in pictures(part))
            text += f"{' ' if text else ''}{names}"
    words = _WORD.findall(text.strip()) or ["..."]
    return [word.replace("\u00a0", " ") for word in words]


def _decoder(words: list[str]) -> Callable[[list[int]], str]:
    """Ids to text; where the answer starts over, a blank stands between last and first word."""

    def decode(ids: list[int]) -> str:
        return "".join(_word(words, token_id - 1) for token_id in ids)

    return decode


def _word(words: list[str], place: int) -> str:
    word = words[place % len(words)]
    return word if place < len(words) or word[0].isspace() else " " + word


def _next_token(sequence: Sequence) -> int:
    length = sequence.payload
    assert isinstance(length, int)
    place = len(sequence.output_ids)
    may_end = _END in sequence.stop_ids and place >= sequence.sampling.min_tokens
    return _END if may_end and place >= length else place + 1
