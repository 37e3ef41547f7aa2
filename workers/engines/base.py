"""What an engine is: the seam between the scheduler and whatever computes tokens.

Owns the `Engine` protocol, the `Batch` it is given and the `EngineOptions` it is built from. Knows
neither Redis nor RQ, and no tensor: an engine knows sequences, and sequences know token ids.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from broker.errors import UpstreamFailed
from broker.events import FinishReason, TokenLogprob, Usage
from broker.messages import GenerateRequest
from broker.settings import Settings
from workers.sequence import Sequence

Loading = Callable[[int], None]
"""Told how many per cent of the loading are done, from 0 to 100, never falling."""


class EngineBroken(Exception):
    """The engine can compute nothing more in this process, which must end and start again."""


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """How servers that compute are found: one by its address, or those that registered."""

    settings: Settings
    """Redis, keys, allowed addresses, dispatch method."""
    url: str = ""
    """Address of the one server."""
    model: str = ""
    """Its name for the model; the name it is served as here, by default."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is built from; `"auto"` and None leave the choice to the engine."""

    model_path: str
    engine: str = "local"
    device: str = "auto"
    dtype: str = "auto"
    load_8bit: bool = False
    slots: int = 16
    context_length: int | None = None
    max_image_pixels: int = 25_000_000
    compile: str = "off"
    compile_dir: str = "."
    """Where compiled code is kept for the next start."""
    model_name: str = ""
    """What the model is served as: without a chat template, its name may say how it was trained."""
    conv_template: str = "auto"
    """A name of `workers.templates`; `"auto"` is the checkpoint's own, else by the model's name."""
    trust_remote_code: bool = False
    """Whether code that comes with a checkpoint may be run."""
    upstream: UpstreamOptions | None = None
    """Servers that compute instead of this process; only such engines need it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a sequence's ids, `start` to `stop`, that is to be prefilled in one step."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        """Whether a token is sampled after this chunk."""
        return self.stop == len(self.sequence.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """The work of one step: prompt pieces to prefill, and sequences that want one more token."""

    prefills: tuple[Chunk, ...] = ()
    decodes: tuple[Sequence, ...] = ()

    def __len__(self) -> int:
        return len(self.prefills) + len(self.decodes)

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """The sequences concerned, in the order of the tokens that `Engine.step` returns."""
        return (*(chunk.sequence for chunk in self.prefills), *self.decodes)

    def halves(self) -> tuple[Batch, Batch]:
        """Split the work in two, decodes first; used to find what made a step fail."""
        if self.prefills and self.decodes:
            return Batch(decodes=self.decodes), Batch(prefills=self.prefills)
        middle = len(self) // 2
        return (
            Batch(self.prefills[:middle], self.decodes[:middle]),
            Batch(self.prefills[middle:], self.decodes[middle:]),
        )


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sampled token; if the sequence asks for them, its log-probability and the likeliest ones'.

    `logprob` is None when it was not asked for. `top` has (token id, log-probability) pairs, the
    likeliest first, at most `sampling.logprobs` of them.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Engine(Protocol):
    """Computes tokens for up to `slots` sequences at once.

    `prepare` and `count_tokens` apart, all is called from one thread; these two may run beside them
    in others. Any may raise `EngineBroken`; whatever else is raised concerns one request.
    """

    name: str
    device: str
    slots: int
    context_length: int
    images: bool
    chunk_tokens: int
    """Prompt tokens to prefill per step, so that a long prompt does not stall running streams."""

    def prepare(
        self,
        request: GenerateRequest,
        images: Mapping[str, bytes],
        resume_ids: tuple[int, ...] = (),
    ) -> Sequence:
        """Turn a request and its pictures' bytes (by SHA-256) into a sequence.

        `resume_ids` are tokens that an earlier attempt produced and published: they count as
        generated, their text is not told again, and generation goes on right behind them.

        Raises:
            ContextLengthExceeded: the prompt leaves no room for an answer.
            InvalidImage: a picture is missing, damaged or over a limit.
            InvalidRequest: the model cannot take this conversation.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text as a prompt: as a template wrote it, and what comes before."""
        ...

    def admit(self, sequence: Sequence) -> bool:
        """Give a sequence a slot; False if there is none now.

        Sets `slot`, and `cached` to how many of its leading ids the engine holds already.
        """
        ...

    def ready(self, sequence: Sequence) -> int:
        """Return how many leading ids of an admitted sequence can be computed by now.

        Behind them is a picture that `look` has to see first.
        """
        ...

    def look(self, sequence: Sequence, deadline_s: float) -> None:
        """Look at a picture of an admitted sequence that is not ready, and get something done.

        Takes until `deadline_s` on the clock of `time.perf_counter` at most, or a little longer.
        """
        ...

    def step(self, batch: Batch) -> list[Sampled | None]:
        """Run the model once; one token for each of `batch.sequences`, None if still prefilling.

        Whether it returns or raises, ids and `cached` of the sequences are unchanged. After it
        raised, the same work may be asked for again in parts.
        """
        ...

    def release(self, sequence: Sequence) -> None:
        """Take back the sequence's slot; a no-op if it has none."""
        ...


class UpstreamBusy(UpstreamFailed):
    """The upstream has no room for a request now, and may have some in `pause_s` seconds."""

    status = 503
    code = "upstream_busy"

    def __init__(self, message: str, pause_s: float) -> None:
        super().__init__(message)
        self.pause_s = pause_s


@dataclass(frozen=True, slots=True)
class Piece:
    """What came from an upstream: new text and how many tokens it is, about.

    The last one of an answer has a finish reason, and the usage if the upstream tells it.
    """

    text: str = ""
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@runtime_checkable
class Upstream(Protocol):
    """Servers that compute for a worker over HTTP; used by `workers.relay`, from its event loop."""

    name: str
    device: str
    context_length: int
    images: bool

    @property
    def slots(self) -> int:
        """Requests that may run there at once."""
        ...

    @property
    def trouble(self) -> str:
        """Why no request can be sent there now; empty when one can."""
        ...

    async def check(self) -> None:
        """Ask whether it answers, and set `trouble` accordingly; called each second."""
        ...

    def stream(
        self, request: GenerateRequest, images: Mapping[str, bytes]
    ) -> AsyncGenerator[Piece]:
        """Send a request and yield its answer; closing the iterator cancels it there.

        The last cell on the request's path is this one. After `UpstreamFailed` it may be called
        again for the same request; the answer then begins anew, at another server if there is one.

        Raises:
            UpstreamBusy: no room there now.
            UpstreamFailed: no connection, a broken one, nonsense, or an error that is not the
                request's fault.
            HeliographError: the upstream refused this request.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
