"""How long one waits for tokens at the moments that matter, against servers with OpenAI's protocol.

    python -m bench.latency --scenario arrivals --target heliograph=http://127.0.0.1:8000
    python -m bench.latency --scenario turns --target heliograph=http://127.0.0.1:8000

`arrivals`: a long prompt, and with `--pictures` a large picture, arrive while chats stream.
`turns`: the second turn of a chat, and a cold prompt like it. Rounds are interleaved, every second
one in reverse order; medians over the rounds are printed. How many words make the tokens asked for
is found out from each server's own counts, before the rounds. What the figures mean is said in
`bench/peers.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from bench.answers import RequestFailed
from bench.arrivals import Arrivals
from bench.flags import http_target, make_parser, settings
from bench.http import HttpTarget
from bench.prompts import Ask, story
from bench.report import machine
from bench.turns import Turns

SAMPLE_WORDS = 40
"""Words of the first text that a server counts the tokens of."""
ANSWER_TOKENS = {"arrivals": 256, "turns": 16}


class Round(Protocol):
    """What a round of a scenario found."""

    def as_json(self) -> dict[str, object]:
        """Return the figures by name."""
        ...


R = TypeVar("R", bound=Round)


class Scenario(Protocol[R]):
    """Something to wait for; `head` is the first line of its table."""

    head: str

    def run(self, target: HttpTarget, seed: str, words: int) -> R:
        """Run one round; raises `RequestFailed`."""
        ...

    def median(self, rounds: Sequence[R]) -> R:
        """Return the medians over at least one round."""
        ...

    def rows(self, name: str, found: R) -> list[str]:
        """Write one target's part of the table."""
        ...


@dataclass(slots=True)
class Result(Generic[R]):
    """One target: its rounds, and why the others failed."""

    target: str
    words: int
    rounds: list[R] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def words_for(target: HttpTarget, tokens: int, seed: str) -> int:
    """Return how many words of a story make a prompt of about so many tokens.

    Counted by the server itself, at a short and at a long text: a prompt also has the tokens of
    its template.

    Raises:
        RequestFailed: the server refuses such texts, or does not count.
    """

    def count(words: int) -> int:
        return target.reply(Ask(story(seed, words)).messages(), max_tokens=1).prompt_tokens

    few = count(SAMPLE_WORDS)
    longer = max(2 * SAMPLE_WORDS, SAMPLE_WORDS * tokens // max(1, few))
    per_word = (count(longer) - few) / (longer - SAMPLE_WORDS)
    if per_word <= 0:
        raise RequestFailed("usage does not say how many tokens a prompt has")
    return max(1, round(SAMPLE_WORDS + (tokens - few) / per_word))


def compare(
    scenario: Scenario[R], targets: Sequence[HttpTarget], flags: argparse.Namespace
) -> list[Result[R]]:
    """Run all rounds, for each round all targets in turn; the first round is not counted."""
    results = {target.name: Result[R](target.name, _words(target, flags)) for target in targets}
    for turn in range(flags.rounds + 1):
        for target in targets if turn % 2 else reversed(targets):
            result, what = results[target.name], f"round {turn}" if turn else "warm-up"
            try:
                found = scenario.run(target, f"{flags.seed} {turn}", result.words)
            except RequestFailed as error:
                result.failures.append(str(error))
                print(f"{what}, {target.name}: failed", flush=True)
                continue
            print(f"{what}, {target.name}", flush=True)
            if turn:
                result.rounds.append(found)
    return list(results.values())


def _words(target: HttpTarget, flags: argparse.Namespace) -> int:
    tokens = flags.prompt_tokens if flags.scenario == "arrivals" else flags.history_tokens
    try:
        return words_for(target, tokens, f"{flags.seed} words")
    except RequestFailed as error:
        raise SystemExit(f"{target.name}: {error}") from None


def table(scenario: Scenario[R], results: Sequence[Result[R]]) -> str:
    """Write the medians, and the first failure of each target that has any."""
    lines = [scenario.head]
    for each in results:
        if each.rounds:
            lines += scenario.rows(each.target, scenario.median(each.rounds))
        if each.failures:
            lines.append(f"{each.target}, {len(each.failures)} failed: {each.failures[0]}")
    return "\n".join(lines)


def as_json(
    scenario: Scenario[R], results: Sequence[Result[R]], flags: argparse.Namespace
) -> dict[str, object]:
    """Return everything that is worth keeping, each round included."""
    return {
        "machine": machine("bench.latency"),
        "settings": settings(flags),
        "results": [
            {
                "target": each.target,
                "words": each.words,
                "median": scenario.median(each.rounds).as_json() if each.rounds else None,
                "rounds": [found.as_json() for found in each.rounds],
                "failures": each.failures,
            }
            for each in results
        ],
    }


def read_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser("bench.latency", __doc__, rounds=5)
    add = parser.add_argument
    add("--scenario", choices=sorted(ANSWER_TOKENS), required=True)
    add("--pictures", action="store_true", help="a large picture arrives, or chats begin with one")
    add("--tokens", type=int, help="longest answer (default: 256 in arrivals, 16 in turns)")
    add("--chats", type=int, default=16, help="arrivals: chats that stream meanwhile")
    add("--prompt-tokens", type=int, default=2000, help="arrivals: tokens of the long prompt")
    add("--window-s", type=float, default=5.0, metavar="S",
        help="arrivals: seconds that the window goes on after the last first token")  # fmt: skip
    add("--history-tokens", type=int, default=1000, help="turns: tokens of the first message")
    flags = parser.parse_args(arguments)
    flags.tokens = flags.tokens or ANSWER_TOKENS[flags.scenario]
    return flags


def make_scenario(flags: argparse.Namespace) -> Scenario[Any]:
    """Return the scenario that was asked for."""
    if flags.scenario == "arrivals":
        return Arrivals(flags.chats, flags.window_s, flags.pictures)
    return Turns(flags.pictures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, keep the figures."""
    flags = read_flags(arguments)
    targets = [http_target(text, flags) for text in flags.target]
    names = [target.name for target in targets]
    if not targets or len(set(names)) < len(names):
        raise SystemExit(
            "nothing to measure, or two of one name: --target NAME=URL, NAME differing"
        )
    scenario = make_scenario(flags)
    results = compare(scenario, targets, flags)
    print(table(scenario, results))
    print(f"The same questions again: --seed {flags.seed}")
    if flags.json:
        flags.json.write_text(json.dumps(as_json(scenario, results, flags), indent=2) + "\n")


if __name__ == "__main__":
    main()
