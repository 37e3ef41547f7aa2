"""How long one pass of the model takes, without sampling and without a server.

    python -m bench.passes DIR eager compiled 8bit

Each way of running has a process of its own. The ways take turns at every kind of pass, so that the
noise of a machine hits all alike; medians are printed, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from broker.settings import Settings
from workers.engines import load_engine
from workers.engines.base import EngineOptions
from workers.engines.local import LocalEngine
from workers.engines.runner import Piece, Runner

ROWS, LENGTH = 32, 2048
WAYS = {
    "eager": {"compile": "off"},
    "compiled": {"compile": "now"},
    "8bit": {"compile": "now", "load_8bit": True},
}
REPEATS = 5
"""Passes in a row, of which the median counts."""


def kinds() -> dict[str, list[Piece]]:
    """Return what is measured: answers that go on by a token, and prompts from their beginning."""
    found = {
        f"{rows} at {position:,}": [Piece(slot, [100 + slot], position) for slot in range(rows)]
        for rows, position in ((1, 150), (8, 150), (32, 150), (32, 1000))
    }
    for count, tokens in ((1, 128), (4, 128), (8, 128), (1, 512), (1, 1024)):
        prompts = [Piece(slot, range(100, 100 + tokens), 0) for slot in range(count)]
        found[f"{count} x {tokens} new"] = prompts
    return found


_runner: Runner


def _load(path: str, way: str) -> None:
    global _runner
    kept = str(Settings.from_environment().data_dir / "compiled")
    options = EngineOptions(path, slots=ROWS, context_length=LENGTH, compile_dir=kept, **WAYS[way])  # type: ignore[arg-type]
    engine = load_engine(options, lambda percent: None)
    if not isinstance(engine, LocalEngine):
        raise SystemExit(f"{path} is not run by an engine of ours")
    _runner = engine.runner
    _runner.run([Piece(0, [1, 2], 0)])


def _time_ms(pieces: Sequence[Piece]) -> float:
    times_s = []
    for _ in range(REPEATS):
        started_s = time.perf_counter()
        _runner.run(pieces)
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s) * 1e3


def measure(path: str, ways: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds for each kind of pass and way of running; a first round warms up."""
    spawn = multiprocessing.get_context("spawn")
    pools = {way: ProcessPoolExecutor(1, spawn, _load, (path, way)) for way in ways}
    times: dict[str, dict[str, list[float]]] = {kind: {way: [] for way in ways} for kind in kinds()}
    for turn in range(rounds + 1):
        for kind, pieces in kinds().items():
            for way, pool in pools.items():
                took_ms = pool.submit(_time_ms, pieces).result()
                if turn:
                    times[kind][way].append(took_ms)
    for pool in pools.values():
        pool.shutdown()
    return {
        kind: {way: round(statistics.median(each), 1) for way, each in found.items()}
        for kind, found in times.items()
    }


def main() -> None:
    """Print a table, and keep it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="checkpoint folder of a text model")
    parser.add_argument("ways", nargs="*", choices=WAYS, default=["eager", "compiled"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the figures")
    flags = parser.parse_args()
    found = measure(flags.model, flags.ways, flags.rounds)
    sys.stdout.write(f"{'pass, ms':16}" + "".join(f"{way:>10}" for way in flags.ways) + "\n")
    for kind, figures in found.items():
        sys.stdout.write(
            f"{kind:16}" + "".join(f"{each:10.1f}" for each in figures.values()) + "\n"
        )
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
