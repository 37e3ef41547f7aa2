"""Starts stand-ins for foreign workers, registers them, and asks an upstream directly."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from broker import cell, foreign
from broker.foreign import ForeignWorker
from broker.messages import ChatMessage, GenerateRequest, ImagePart, SamplingParams, TextPart
from tests.stack import Process, Stack, free_port, until
from workers.engines.base import EngineOptions, Piece, UpstreamOptions
from workers.engines.foreign import ForeignEngine

SCRIPT = Path(__file__).with_name("foreign_worker.py")
MODEL = "llava-v1.5-7b"


class StandIn:
    """A running stand-in."""

    def __init__(self, stack: Stack, **flags: object) -> None:
        self.port = int(str(flags.pop("port", 0))) or free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, str(SCRIPT), f"--port={self.port}"]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        self.process = Process("foreign", command, stack.env, stack.folder)
        stack.processes.append(self.process)
        until(self._answers, f"{self.address} answers\n{self.process.output}")

    def _answers(self) -> bool:
        try:
            return bool(self.seen())
        except OSError:
            return False

    def seen(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.address}/seen", timeout=5) as reply:
            found: dict[str, Any] = json.load(reply)
            return found


def register(stack: Stack, worker: StandIn | str, *models: str, **fields: Any) -> None:
    """Write what the API writes when a worker registers."""
    address = worker if isinstance(worker, str) else worker.address
    record = {"models": models or (MODEL,), "registered_s": time.time(), **fields}
    foreign.register(stack.redis, ForeignWorker(address=address, **record))


def start(stack: Stack, *models: str, fastchat: bool = False, **flags: object) -> StandIn:
    """Start a stand-in and register it."""
    if models:
        flags["model"] = ",".join(models)
    worker = StandIn(stack, **flags)
    register(stack, worker, *models, fastchat=fastchat)
    return worker


def ask(text: str, model: str = MODEL, path: tuple[str, ...] = (), **sampling: Any) -> Any:
    """A request that stand-ins answer with `text`."""
    message = ChatMessage(role="user", content=(TextPart(text=f"SAY[{text}]"),))
    return request((message,), model, path, **sampling)


def request(
    messages: tuple[ChatMessage, ...],
    model: str = MODEL,
    path: tuple[str, ...] = (),
    **sampling: Any,
) -> GenerateRequest:
    return GenerateRequest(
        id=f"job-{time.monotonic_ns()}",
        model=model,
        messages=messages,
        sampling=SamplingParams.model_validate(sampling),
        created_s=time.time(),
        path=path,
    )


def message(role: Any, text: str, *images: str) -> ChatMessage:
    parts = (*(ImagePart(sha256=sha) for sha in images), TextPart(text=text))
    return ChatMessage(role=role, content=parts)


class Asked:
    """The pieces of an answer, checked for exactly one end."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = pieces
        assert [bool(piece.finish_reason) for piece in pieces] == [False] * (len(pieces) - 1) + [
            True
        ]
        self.text = "".join(piece.text for piece in pieces)
        self.reason = pieces[-1].finish_reason
        self.usage = pieces[-1].usage
        self.tokens = sum(piece.tokens for piece in pieces)


class Foreign:
    """An engine in this process, on an event loop of its own."""

    def __init__(
        self, stack: Stack, model: str = MODEL, silence_s: float = 5.0, **env: Any
    ) -> None:
        self.slots = env.pop("slots", 5)
        self._options = EngineOptions(
            model_path="",
            model_name=model,
            engine="foreign",
            device="",
            slots=self.slots,
            upstream=UpstreamOptions(stack.settings(**env)),
        )
        self._silence_s = silence_s
        self.cell = cell.cell_id(stack.redis)
        self.loop = asyncio.new_event_loop()
        self.engine = self.run(self._make())

    async def _make(self) -> ForeignEngine:
        return ForeignEngine(self._options, lambda _: None, self._silence_s)

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def check(self) -> ForeignEngine:
        self.run(self.engine.check())
        return self.engine

    def ask(self, asked: GenerateRequest, images: Mapping[str, bytes] | None = None) -> Asked:
        return self.run(self.stream(asked, images or {}))  # type: ignore[no-any-return]

    async def stream(self, asked: GenerateRequest, images: Mapping[str, bytes]) -> Asked:
        path = (*asked.path, self.cell)
        asked = asked.model_copy(update={"path": path})
        async with aclosing(self.engine.stream(asked, images)) as pieces:
            return Asked([piece async for piece in pieces])

    def close(self) -> None:
        self.run(self.engine.close())
        self.loop.close()
