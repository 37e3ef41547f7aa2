"""Decoding speed of the local engine alone, eager beside compiled: `python -m bench.decode MODEL`.

No Redis, no HTTP, prompts already prefilled: what is left is one step of the model for every token.
Both engines live in one process and take turns, so that the noise of a machine hits both alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time

from broker.messages import ChatMessage, GenerateRequest, SamplingParams, TextPart
from workers.engines import load_engine
from workers.engines.base import Engine, EngineOptions
from workers.scheduler import Scheduler

TOKENS = 64


def ask(number: int) -> GenerateRequest:
    """A question that no other number asks, answered at full length."""
    text = f"Write a story about {number * 7} foxes and a dog that is called number {number}."
    return GenerateRequest(
        id=str(number),
        model="any",
        messages=(ChatMessage(role="user", content=(TextPart(text=text),)),),
        sampling=SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True),
        created_s=0.0,
    )


def step_times_s(engine: Engine, chats: int) -> list[float]:
    """Seconds that each decode step takes while all chats decode."""
    scheduler = Scheduler(engine)
    sequences = [engine.prepare(ask(number), {}) for number in range(chats)]
    for sequence in sequences:
        scheduler.add(sequence)
    times_s = []
    while scheduler.has_work:
        full = all(each.is_decoding and each.finish_reason is None for each in sequences)
        started_s = time.perf_counter()
        scheduler.step()
        if full:
            times_s.append(time.perf_counter() - started_s)
    return times_s


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="checkpoint folder")
    parser.add_argument("--chats", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile-dir", default=tempfile.gettempdir(), help="keeps compiled code")
    args = parser.parse_args()
    levels = [int(level) for level in args.chats.split(",")]
    engines = {
        mode: load_engine(
            EngineOptions(
                args.model,
                slots=max(levels),
                context_length=2048,
                compile=mode,
                compile_dir=args.compile_dir,
            ),
            lambda percent: None,
        )
        for mode in ("off", "now")
    }
    sys.stdout.write("chats      eager ms   compiled ms   tokens/s eager, compiled   ratio\n")
    for chats in levels:
        found: dict[str, list[float]] = {mode: [] for mode in engines}
        for _ in range(args.rounds):
            for mode, engine in engines.items():
                found[mode] += step_times_s(engine, chats)
        eager_s, compiled_s = (statistics.median(found[mode]) for mode in engines)
        sys.stdout.write(
            f"{chats:5} {eager_s * 1e3:13.1f} {compiled_s * 1e3:13.1f} "
            f"{chats / eager_s:16.0f} {chats / compiled_s:9.0f} {eager_s / compiled_s:7.2f}\n"
        )


if __name__ == "__main__":
    main()
