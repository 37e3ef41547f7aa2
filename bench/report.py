"""A benchmark's figures as a table and as JSON, with the facts of the machine they come from."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.answers import Figures, median_figures

HEAD = (
    "chats  target               tokens/s  ratio   first token p50 / p95 (ms)"
    "   per token p50 / p99 (ms)   answer  errors   load"
)


@dataclass(slots=True)
class Result:
    """One target at one level: its rounds, and what its requests failed of."""

    chats: int
    target: str
    rounds: list[Figures]
    failures: list[str]

    @property
    def median(self) -> Figures:
        """The median over the rounds."""
        return median_figures(self.rounds)


def table(results: Sequence[Result], baseline: str) -> str:
    """Write the medians; `ratio` is tokens/s beside the baseline's at the same level."""
    lines = [HEAD]
    for result in results:
        f, ratio = result.median, _ratio(result, results, baseline)
        lines.append(
            f"{result.chats:5d}  {result.target:18s} {f.tokens_per_s:10.1f} {_cell(ratio, 6, 2)}"
            f" {_cell(f.first_token_p50_ms, 15)} / {_cell(f.first_token_p95_ms, 8)}"
            f" {_cell(f.per_token_p50_ms, 15)} / {_cell(f.per_token_p99_ms, 8)}"
            f" {f.tokens_per_answer:10.1f} {f.errors:7d} {f.load_cpu_share:6.1%}"
        )
    lines.append("answer: tokens per answer. load: share of a core that the load itself took.")
    lines += [
        f"{each.target}, {each.chats} chats, first failure: {each.failures[0]}"
        for each in results
        if each.failures
    ]
    return "\n".join(lines)


def as_json(results: Sequence[Result], baseline: str, settings: dict[str, object]) -> object:
    """Return everything that is worth keeping, each round included."""
    return {
        "machine": machine("bench.chat"),
        "settings": settings,
        "baseline": baseline,
        "results": [
            {
                "chats": result.chats,
                "target": result.target,
                "ratio": _ratio(result, results, baseline),
                "median": asdict(result.median),
                "rounds": [asdict(figures) for figures in result.rounds],
                "failures": result.failures[:10],
            }
            for result in results
        ],
    }


def machine(module: str) -> dict[str, object]:
    """Return what the figures of a benchmark depend on, besides the targets themselves."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "transformers": _version("transformers"),
    }


def _ratio(result: Result, results: Sequence[Result], baseline: str) -> float:
    """Return tokens/s beside the baseline's at this level, or 0 where that has none."""
    of_level = (each for each in results if each.chats == result.chats)
    base = next(each.median.tokens_per_s for each in of_level if each.target == baseline)
    return result.median.tokens_per_s / base if base else 0.0


def _cell(value: float, width: int, digits: int = 1) -> str:
    return f"{value:{width}.{digits}f}" if value else f"{'-':>{width}s}"


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text().splitlines() if facts.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
