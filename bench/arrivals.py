"""A long prompt arrives while other chats stream: what it does to them, and how long it waits.

The chats ask again as soon as they are answered. Their first answers are of staggered lengths, so
that they do not go on asking all at once.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from bench.answers import Answer, medians
from bench.http import Exchange, HttpTarget
from bench.prompts import LARGE, Ask, clean_picture, make_asks, story
from bench.window import Window

QUESTION_WORDS = 60
ARRIVED_TOKENS = 32
"""Longest answer to what arrives: enough to join the others, and little beside the prompt."""
SHORT_WORDS = 12
"""Words beside the picture."""
TILES = 12
MARGIN = 1.25
"""How much longer the chats are left alone than what arrived took so far."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request that arrived: its prompt as the server counts it, and its wait."""

    prompt_tokens: float
    first_token_ms: float

    @classmethod
    def of(cls, answer: Answer) -> Arrived:
        """Take both from an answer; raises `RequestFailed` if it is none."""
        return cls(answer.prompt_tokens, 1000 * answer.require().first_token_s)


@dataclass(frozen=True, slots=True)
class Round:
    """The chats before and after the arrival, and what arrived."""

    quiet: Window
    disturbed: Window
    prompt: Arrived
    picture: Arrived | None

    def as_json(self) -> dict[str, object]:
        """Return the figures with the ratios that follow from them."""
        windows = {"quiet": self.quiet, "disturbed": self.disturbed}
        return asdict(self) | {
            name: asdict(window) | {"ratio": window.ratio} for name, window in windows.items()
        }


class Chat:
    """One of the chats that stream all the time, on text only."""

    def __init__(self, target: HttpTarget, seed: str, first_tokens: int) -> None:
        self.leaving = False
        self._target = target
        self._requests = self._ask(seed, first_tokens)
        self.exchanges = [Exchange(next(self._requests))]

    async def run(self) -> None:
        """Ask, and ask again, until it is leaving or is not answered."""
        while not (await self._target.ask(self.exchanges[-1])).error and not self.leaving:
            self.exchanges.append(Exchange(next(self._requests)))

    def _ask(self, seed: str, first_tokens: int) -> Iterator[bytes]:
        for place in itertools.count():
            (ask,) = make_asks(f"{seed} {place}", 1, QUESTION_WORDS, pictures=False)
            tokens = self._target.max_tokens if place else first_tokens
            yield self._target.request(ask.messages(), max_tokens=tokens)


class Arrivals:
    """The scenario, for any number of targets and rounds."""

    head = (
        "target              chats are        s   tokens/s   per token p50 / p99 (ms)"
        "   p99/p50   longest gap (ms)"
    )

    def __init__(self, chats: int, window_s: float, pictures: bool) -> None:
        """Disturb so many chats, and watch them for `window_s` after the last first token."""
        self._chats = chats
        self._window_s = window_s
        self._pictures = pictures
        self._taken_s: dict[str, float] = {}

    def run(self, target: HttpTarget, seed: str, words: int) -> Round:
        """Run one round with a prompt of so many words.

        Raises:
            RequestFailed: one of the chats or of what arrived was not answered.
        """
        return asyncio.run(self._run(target, seed, self._newcomers(target, seed, words)))

    def median(self, rounds: Sequence[Round]) -> Round:
        """Return the median of each figure; ratios follow from those."""
        pictures = [each.picture for each in rounds if each.picture]
        return Round(
            quiet=medians([each.quiet for each in rounds]),
            disturbed=medians([each.disturbed for each in rounds]),
            prompt=medians([each.prompt for each in rounds]),
            picture=medians(pictures) if pictures else None,
        )

    def rows(self, name: str, found: Round) -> list[str]:
        """Write one target's part of the table."""
        arrived = {"prompt": found.prompt, "picture": found.picture}
        return [
            _row(name, "undisturbed", found.quiet),
            _row(name, "disturbed", found.disturbed),
            *(
                f"{name:18s}  first token of the {what} ({each.prompt_tokens:.0f} tokens):"
                f" {each.first_token_ms:.1f} ms"
                for what, each in arrived.items()
                if each
            ),
        ]

    def _newcomers(self, target: HttpTarget, seed: str, words: int) -> list[bytes]:
        """Make what arrives, beforehand: drawing would hold up the reading of streams."""
        prompt = Ask(story(f"{seed} prompt", words)).messages()
        requests = [target.request(prompt, max_tokens=ARRIVED_TOKENS)]
        if self._pictures:
            png = clean_picture(f"{seed} picture", LARGE)
            question = Ask(story(f"{seed} question", SHORT_WORDS), png).messages()
            fields = {"max_tokens": ARRIVED_TOKENS, "max_input_tiles": TILES}
            requests.append(target.request(question, **fields))
        return requests

    async def _run(self, target: HttpTarget, seed: str, newcomers: Sequence[bytes]) -> Round:
        longest, count = target.max_tokens, self._chats
        chats = [
            Chat(target, f"{seed} chat {place}", max(1, longest * (place + 1) // count))
            for place in range(count)
        ]
        tasks = [asyncio.create_task(chat.run()) for chat in chats]
        for chat in chats:
            await chat.exchanges[0].begun.wait()
        steady_s = time.perf_counter()
        await asyncio.sleep(self._quiet_s(target))

        arrived = [Exchange(request) for request in newcomers]
        waiting = [asyncio.create_task(target.ask(exchange)) for exchange in arrived]
        for exchange in arrived:
            await exchange.begun.wait()
        await asyncio.sleep(self._window_s)
        end_s = time.perf_counter()
        for chat in chats:
            chat.leaving = True
        await asyncio.gather(*tasks, *waiting)

        begin_s = arrived[0].answer.sent_s
        length_s = end_s - begin_s
        self._taken_s[target.name] = max(length_s, self._taken_s.get(target.name, 0.0))
        answers = [exchange.answer.require() for chat in chats for exchange in chat.exchanges]
        return Round(
            quiet=Window.of(answers, max(steady_s, begin_s - length_s), begin_s),
            disturbed=Window.of(answers, begin_s, end_s),
            prompt=Arrived.of(arrived[0].answer),
            picture=Arrived.of(arrived[1].answer) if self._pictures else None,
        )

    def _quiet_s(self, target: HttpTarget) -> float:
        """Seconds to leave the chats alone: enough for a window like those of earlier rounds."""
        return MARGIN * self._taken_s.get(target.name, self._window_s)


def _row(name: str, state: str, window: Window) -> str:
    p50, p99 = window.per_token_p50_ms, window.per_token_p99_ms
    return (
        f"{name:18s}  {state:11s} {window.length_s:6.1f} {window.tokens_per_s:10.1f}"
        f" {p50:15.1f} / {p99:8.1f} {window.ratio:9.2f} {window.longest_gap_ms:18.1f}"
    )
