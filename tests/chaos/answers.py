"""Answers streamed by the API, each read by a client of its own: texts, ids, errors, times."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from broker.events import Delta, EventId
from tests.chaos.cases import Told
from tests.frontend.clients import Connection, body


@dataclass
class Answer(Told):
    """What one client got of its answer: text to a proper end, or an error."""

    error: dict[str, Any] = field(default_factory=dict)
    over_s: float = 0.0
    job_id: str = ""

    @property
    def ended(self) -> bool:
        return self.over_s > 0

    @property
    def error_at_s(self) -> float | None:
        return self.over_s if self.failed else None

    @property
    def failed(self) -> bool:
        """Whether it ended with an error that a client can read."""
        return bool(self.error.get("code") and self.error.get("message"))


class Answers:
    """Asks for several answers at once and follows them to their ends."""

    def __init__(self, address: str, texts: Sequence[str]) -> None:
        self.told = [Answer() for _ in texts]
        self._progress = threading.Condition()
        self._pool = ThreadPoolExecutor(len(texts))
        self._done = [
            self._pool.submit(self._read, address, text, told)
            for text, told in zip(texts, self.told, strict=True)
        ]

    def _read(self, address: str, text: str, told: Answer) -> None:
        with Connection(address) as client:
            client.send(body(text, stream=True))
            if " 200 " not in next(client.lines()):
                told.error = client.body()["error"]
            else:
                self._follow(client, told)
        self._note(told, over=True)

    def _follow(self, client: Connection, told: Answer) -> None:
        event_id = EventId(0, 0)
        for line in client.lines_until_done():
            if line.startswith("id: "):
                event_id = EventId.parse(line[4:])
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                told.error = chunk.get("error", {})
                told.job_id = chunk.get("id", told.job_id).removeprefix("chatcmpl-")
                for choice in chunk.get("choices", ()):
                    if text := choice["delta"].get("content"):
                        told.events.append((time.monotonic(), Delta(event_id, text, ())))
                        self._note(told)

    def _note(self, told: Answer, *, over: bool = False) -> None:
        with self._progress:
            told.tokens = len(told.text.split())
            told.over_s = time.monotonic() if over else 0.0
            self._progress.notify_all()

    def until_tokens(self, count: int, answers: int | None = None) -> None:
        """Wait until so many answers (all by default) have that many words, or are over."""
        wanted = len(self.told) if answers is None else answers
        with self._progress:
            assert self._progress.wait_for(
                lambda: sum(a.tokens >= count or a.ended for a in self.told) >= wanted, 30
            ), [*self._broken(), *((each.tokens, each.error) for each in self.told)]

    def _broken(self) -> list[BaseException | None]:
        """Why clients ended that did not come to an end of their answers."""
        return [each.exception() for each in self._done if each.done() and each.exception()]

    def finish(self, timeout_s: float = 60.0) -> list[Answer]:
        """Wait for the ends of all answers; a client that hangs fails by its own time limit."""
        for each in self._done:
            each.result(timeout_s)
        self._pool.shutdown()
        return self.told
