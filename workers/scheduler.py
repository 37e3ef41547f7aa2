"""Continuous batching: waiting -> running -> finished, one engine step at a time.

Owns who runs: first come, first served into the engine's slots, prompts prefilled in chunks beside
the running streams, cancellation, and the one place where an engine's failure becomes the failure
of a request. Knows neither tensors nor Redis, and is used from one thread only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from broker.errors import ErrorBody, HeliographError, WorkerFailed
from broker.events import FinishReason, Likely, TokenLogprob, Usage
from workers.engines.base import Batch, Chunk, Engine, EngineBroken, Sampled
from workers.pace import Pace
from workers.sequence import Sequence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Output:
    """What a step brought for one request; the last one has a finish reason or an error.

    `tokens` counts those whose ids are not known.
    """

    request_id: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: ErrorBody | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int = 0


Tokens = list[tuple[Sequence, Sampled | None]]


class Scheduler:
    """Runs sequences on an engine; every added one gets exactly one last `Output`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[str, Sequence] = {}
        self._running: dict[str, Sequence] = {}
        self._ended: list[Output] = []
        self._pace = Pace(engine.chunk_tokens)

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do or to tell."""
        return bool(self._running or self._waiting or self._ended)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. One that its resumed tokens already ended is told at the next step.

        Raises:
            ValueError: a sequence of that request is already here.
        """
        if sequence.request_id in self._running or sequence.request_id in self._waiting:
            raise ValueError(f"request {sequence.request_id} is already scheduled")
        if sequence.finish_reason is not None:
            self._end(sequence, sequence.tail)
        else:
            self._waiting[sequence.request_id] = sequence

    def cancel(self, request_id: str) -> bool:
        """Stop a request and free its slot at once; False if it is not (or no longer) here."""
        sequence = self._running.get(request_id) or self._waiting.get(request_id)
        if sequence is None:
            return False
        sequence.finish("cancelled")
        self._end(sequence, sequence.tail)
        return True

    def drop(self, request_id: str) -> None:
        """Forget a request, which may be added again; nothing more is told of it."""
        sequence = self._running.get(request_id) or self._waiting.get(request_id)
        if sequence is not None:
            self._forget(sequence)
        self._ended = [each for each in self._ended if each.request_id != request_id]

    def step(self) -> list[Output]:
        """Bring every running sequence one step further; return what is new.

        Raises:
            EngineBroken: nothing goes on here; the sequences can only go on in another process.
        """
        self._look()
        batch = self._schedule()
        started_s = time.perf_counter()
        sampled = self._run(batch)
        self._pace.note(batch, time.perf_counter() - started_s)
        fresh = self._advance(batch, sampled)
        return self._collect(fresh)

    def _look(self) -> None:
        """Look at the pictures that running prompts come to, for as long as answers may wait."""
        prompts = [each for each in self._running.values() if not each.is_decoding]
        unready = [each for each in prompts if self._engine.ready(each) < len(each.ids)]
        if not unready:
            return
        decodes = len(self._running) - len(prompts)
        spare_s = self._pace.spare_s(decodes, len(prompts) + len(self._waiting))
        deadline_s = time.perf_counter() + spare_s
        for sequence in unready:
            try:
                self._engine.look(sequence, deadline_s)
            except EngineBroken:
                raise
            except Exception as error:
                self._fail(sequence, error)
            if time.perf_counter() >= deadline_s:
                return

    def _schedule(self) -> Batch:
        """Every running answer goes on; what is left of the budget is for prompts, in order."""
        decodes = tuple(each for each in self._running.values() if each.is_decoding)
        prompts = len(self._running) - len(decodes) + len(self._waiting)
        done = next((each.cached for each in self._running.values() if not each.is_decoding), 0)
        budget = self._pace.budget(len(decodes), prompts, done)
        chunks: list[Chunk] = []
        for sequence in self._prefilling() if budget else ():
            stop = min(self._engine.ready(sequence), sequence.cut(sequence.cached + budget))
            if stop <= sequence.cached:
                continue
            chunks.append(Chunk(sequence, sequence.cached, stop))
            budget -= stop - sequence.cached
            if budget <= 0:
                break
        return Batch(tuple(chunks), decodes)

    def _prefilling(self) -> Iterator[Sequence]:
        """Running prompts, then waiting ones as far as there are slots.

        They are admitted one by one as they are asked for: one that has to wait for its turn
        finds more to share.
        """
        yield from [each for each in self._running.values() if not each.is_decoding]
        while self._waiting and len(self._running) < self._engine.slots:
            request_id, sequence = next(iter(self._waiting.items()))
            try:
                if not self._engine.admit(sequence):
                    return
            except EngineBroken:
                raise
            except Exception as error:
                self._fail(sequence, error)
                continue
            del self._waiting[request_id]
            self._running[request_id] = sequence
            if not sequence.is_decoding:
                yield sequence

    def _run(self, batch: Batch) -> Tokens:
        if not len(batch):
            return []
        try:
            return list(zip(batch.sequences, self._engine.step(batch), strict=True))
        except EngineBroken:
            raise
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch.sequences[0], error)
                return []
            log.warning("step of %d sequences failed (%r); trying it in halves", len(batch), error)
        # Not within the handler: the error's traceback would keep the failed pass's memory alive.
        first, second = batch.halves()
        return self._run(first) + self._run(second)

    def _advance(self, batch: Batch, tokens: Tokens) -> list[Output]:
        stops = {id(chunk.sequence): chunk.stop for chunk in batch.prefills}
        fresh = []
        for sequence, sampled in tokens:
            sequence.cached = stops.get(id(sequence), len(sequence.ids))
            if sampled is None:
                continue
            text, ids = sequence.append(sampled.token_id), (sampled.token_id,)
            logprobs = _spell(sequence, sampled)
            if sequence.finish_reason is None:
                fresh.append(Output(sequence.request_id, text, ids, logprobs=logprobs))
            else:
                self._end(sequence, text, ids, logprobs)
        return fresh

    def _collect(self, fresh: list[Output]) -> list[Output]:
        ended, self._ended = self._ended, []
        return fresh + ended

    def _end(
        self,
        sequence: Sequence,
        text: str = "",
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> None:
        self._forget(sequence)
        reason, usage = sequence.finish_reason, sequence.usage
        output = Output(sequence.request_id, text, token_ids, reason, usage, logprobs=logprobs)
        self._ended.append(output)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        log.error("request %s failed in the engine", sequence.request_id, exc_info=error)
        self._forget(sequence)
        if not isinstance(error, HeliographError):
            error = WorkerFailed("The model failed on this request. Try again, or shorten it.")
        self._ended.append(Output(sequence.request_id, error=error.body))

    def _forget(self, sequence: Sequence) -> None:
        self._running.pop(sequence.request_id, None)
        self._waiting.pop(sequence.request_id, None)
        self._engine.release(sequence)


def _spell(sequence: Sequence, sampled: Sampled) -> tuple[TokenLogprob, ...]:
    """The log-probabilities of one token as they are told; empty if nobody asked for them."""
    if sampled.logprob is None:
        return ()
    spell = sequence.spell
    top = tuple(Likely(spell(token_id), logprob) for token_id, logprob in sampled.top)
    return (TokenLogprob(spell(sampled.token_id), sampled.logprob, top),)
