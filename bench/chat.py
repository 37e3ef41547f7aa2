"""Parallel streamed chats against any servers that speak OpenAI's protocol, side by side.

    python -m bench.chat --target heliograph=http://127.0.0.1:8000 \
        --target vllm=http://127.0.0.1:8001,extra='{"ignore_eos": true}' --engine DIR --generate DIR

Asks every target the same questions, all of which differ, at each number of parallel chats. Another
run asks other questions, unless it is given the same `--seed`: no server shall answer from a cache.
Rounds are interleaved, every second one in reverse order, so that the noise of a machine hits all
alike; medians over the rounds are printed. `bench/peers.md` says how to start other servers, and
`bench/models.py` makes the checkpoints.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench import plot
from bench.answers import Answer, Figures, summarize
from bench.flags import http_target, make_parser, settings
from bench.inprocess import Child, ChildTarget, Setup
from bench.prompts import Ask, make_asks
from bench.report import Result, as_json, table
from broker.settings import Settings
from workers.engines.base import EngineOptions

WARM_UP = 0
"""The round that is not counted."""


class Target(Protocol):
    """Something that answers questions."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    def run(self, asks: Sequence[Ask], parallel: int) -> list[Answer]:
        """Ask everything, `parallel` chats at a time, each asking again once it is answered."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def make_targets(flags: argparse.Namespace) -> list[Target]:
    """Return the targets in the order of the table; loads those without a server."""
    targets: list[Target] = [http_target(text, flags) for text in flags.target]
    if flags.engine:
        child = Child(Setup("engine", _options(flags), flags.tokens, flags.ignore_eos))
        targets.append(ChildTarget("engine alone", "engine", child))
    if flags.generate:
        options = EngineOptions(model_path=flags.generate)
        child = Child(Setup("generate", options, flags.tokens, flags.ignore_eos))
        targets += [ChildTarget(f"generate {w}", w, child) for w in ("batch", "one by one")]
    if not targets:
        raise SystemExit("nothing to measure: name a --target, an --engine or a --generate")
    return targets


def _options(flags: argparse.Namespace) -> EngineOptions:
    """Return how a worker would build its engine, but with everything compiled beforehand."""
    return EngineOptions(
        model_path=flags.engine,
        slots=max(flags.levels),
        context_length=flags.context_length,
        compile="now",
        compile_dir=str(Settings.from_environment().data_dir / "compiled"),
    )


def measure(target: Target, asks: Sequence[Ask], parallel: int) -> tuple[Figures, list[str]]:
    """Run one round of one target; return its figures and what its requests failed of."""
    cpu_s = time.process_time()
    answers = target.run(asks, parallel)
    cpu_s = time.process_time() - cpu_s
    return summarize(answers, cpu_s), [answer.error for answer in answers if answer.error]


def compare(targets: Sequence[Target], flags: argparse.Namespace) -> list[Result]:
    """Run all rounds: for each round all levels, for each level all targets in turn."""
    results = {
        (level, target.name): Result(level, target.name, [], [])
        for level in flags.levels
        for target in targets
    }
    for turn in range(flags.rounds + 1):
        for level in flags.levels:
            seed, count = f"{flags.seed} {turn} {level}", _count(turn, level, flags)
            asks = make_asks(seed, count, flags.words, flags.pictures)
            for target in targets if turn % 2 else reversed(targets):
                figures, failures = measure(target, asks, level)
                _tell(turn, level, target.name, figures)
                if turn != WARM_UP:
                    results[level, target.name].rounds.append(figures)
                    results[level, target.name].failures += failures
    return list(results.values())


def _count(turn: int, level: int, flags: argparse.Namespace) -> int:
    """Questions of a round: two a chat or more; one a chat to warm up."""
    return level if turn == WARM_UP else max(flags.requests, 2 * level)


def _tell(turn: int, level: int, name: str, figures: Figures) -> None:
    what = f"round {turn}" if turn != WARM_UP else "warm-up"
    errors = f", {figures.errors} errors" if figures.errors else ""
    print(f"{what}, {level} chats, {name}: {figures.tokens_per_s:.1f} tokens/s{errors}", flush=True)


def read_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser("bench.chat", __doc__, rounds=3)
    add = parser.add_argument
    add("--engine", metavar="DIR", help="a checkpoint for our engine without Redis and HTTP")
    add("--context-length", type=int, default=2048, help="tokens of a slot of that engine")
    add("--generate", metavar="DIR", help="a checkpoint for transformers' generate")
    add("--baseline", metavar="NAME", help="whose tokens/s are 1.00 (default: the first target)")
    add("--levels", type=_levels, default=[1, 8, 32], metavar="1,8,32", help="parallel chats")
    add("--tokens", type=int, default=64, help="longest answer, in tokens")
    add("--requests", type=int, default=8, help="least questions a round; two a chat at least")
    add("--words", type=int, default=60, help="words of a question, about")
    add("--pictures", action="store_true", help="ask about a picture each time")
    add("--plot", type=Path, metavar="FILE", help="draw them (PNG or SVG, needs matplotlib)")
    return parser.parse_args(arguments)


def _levels(text: str) -> list[int]:
    levels = [int(part) for part in text.split(",")]
    if min(levels) < 1:
        raise argparse.ArgumentTypeError("at least one chat")
    return levels


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, keep the figures."""
    flags = read_flags(arguments)
    if flags.plot:
        plot.pyplot()
    targets = make_targets(flags)
    baseline = flags.baseline or targets[0].name
    names = [target.name for target in targets]
    if baseline not in names or len(set(names)) < len(names):
        raise SystemExit(f"names must differ, and the baseline be one of them: {', '.join(names)}")
    try:
        results = compare(targets, flags)
    finally:
        for target in targets:
            target.close()
    print(table(results, baseline))
    print(f"The same questions again: --seed {flags.seed}")
    figures = as_json(results, baseline, settings(flags))
    if flags.json:
        flags.json.write_text(json.dumps(figures, indent=2) + "\n")
    if flags.plot:
        plot.draw(figures, flags.plot)


if __name__ == "__main__":
    main()
