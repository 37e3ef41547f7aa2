"""Targets without a server: transformers' own `generate`, and our engine without Redis and HTTP.

Each model lives in a process of its own, so that its threads and memory stay out of the load
generator; questions go in and answers come out through a pipe, outside the measured time. Torch is
imported in that process only.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from bench.answers import Answer
from bench.prompts import Ask
from broker.messages import (
    ChatMessage,
    GenerateRequest,
    ImagePart,
    Part,
    SamplingParams,
    TextPart,
)
from workers.engines import load_engine
from workers.engines.base import EngineOptions
from workers.scheduler import Scheduler


class Model(Protocol):
    """What runs in the process: one model that answers in one or several ways."""

    def run(self, way: str, asks: Sequence[Ask], parallel: int) -> list[Answer]:
        """Answer everything, `parallel` questions at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Setup:
    """How to build a model: `kind` is "generate" or "engine"."""

    kind: str
    options: EngineOptions
    max_tokens: int
    ignore_eos: bool

    def build(self) -> Model:
        """Load the model; takes a while."""
        if self.kind == "generate":
            from bench.generate import Generate

            return Generate(self.options.model_path, self.max_tokens, self.ignore_eos)
        return EngineLoop(self)


class Child:
    """A process with one model in it, shared by the targets that use it."""

    def __init__(self, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(setup, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, way: str, asks: Sequence[Ask], parallel: int) -> list[Answer]:
        """Have the process answer; its failure ends the benchmark, its reason is on the screen."""
        try:
            self._pipe.send((way, asks, parallel))
            answers: list[Answer] = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            raise SystemExit(f"the process of {way!r} ended, see above") from None
        return answers

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(10)
        self._process.kill()


@dataclass(frozen=True, slots=True)
class ChildTarget:
    """One way of answering of a child process, under a name of its own."""

    name: str
    way: str
    child: Child

    def run(self, asks: Sequence[Ask], parallel: int) -> list[Answer]:
        """Ask everything, `parallel` questions at a time."""
        return self.child.run(self.way, asks, parallel)

    def close(self) -> None:
        """End the process; more than once does no harm."""
        self.child.close()


def _serve(setup: Setup, pipe: Connection) -> None:
    model = setup.build()
    while True:
        try:
            way, asks, parallel = pipe.recv()
        except EOFError:
            return
        pipe.send(model.run(way, asks, parallel))


class EngineLoop:
    """Our engine and scheduler, driven as a worker drives them, but with nobody to tell."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._engine = load_engine(setup.options, lambda percent: None)

    def run(self, way: str, asks: Sequence[Ask], parallel: int) -> list[Answer]:
        """See `Model`; a finished answer makes room for the next question at once."""
        scheduler = Scheduler(self._engine)
        left = iter(enumerate(asks))
        answers: dict[str, Answer] = {}

        def ask() -> None:
            for place, question in left:
                answers[str(place)] = Answer(sent_s=time.perf_counter())
                scheduler.add(self._sequence(str(place), question))
                return

        for _ in range(parallel):
            ask()
        while scheduler.has_work:
            for output in scheduler.step():
                if _take(answers[output.request_id], output):
                    ask()
        return list(answers.values())

    def _sequence(self, request_id: str, question: Ask) -> Any:
        pngs = {hashlib.sha256(question.png).hexdigest(): question.png} if question.png else {}
        parts: list[Part] = [ImagePart(sha256=sha256) for sha256 in pngs]
        request = GenerateRequest(
            id=request_id,
            model="bench",
            messages=(ChatMessage(role="user", content=(*parts, TextPart(text=question.text))),),
            sampling=SamplingParams(
                max_tokens=self._setup.max_tokens,
                temperature=0.0,
                ignore_eos=self._setup.ignore_eos,
            ),
            created_s=time.time(),
        )
        return self._engine.prepare(request, pngs)


def _take(answer: Answer, output: Any) -> bool:
    """Note what a step brought for an answer; return whether that was the last of it."""
    now_s = time.perf_counter()
    if output.token_ids:
        answer.arrivals.append((now_s, float(len(output.token_ids))))
        answer.tokens += len(output.token_ids)
    if output.error is not None:
        answer.error = output.error.message
    answer.ended_s = now_s
    return output.finish_reason is not None or output.error is not None
