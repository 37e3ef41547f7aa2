"""The figures of `bench.chat` or `bench.soak` as a picture.

`python -m bench.plot FIGURES.json PICTURE.png` takes what they keep with `--json`. It needs
matplotlib, which nothing else here does.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

PANELS = (
    ("tokens_per_s", "tokens/s, all chats together"),
    ("first_token_p50_ms", "time to first token, p50 (ms)"),
    ("per_token_p50_ms", "time per token, p50 (ms)"),
)


def pyplot() -> Any:
    """Return matplotlib's plotting module, ready to draw into files."""
    try:
        import_module("matplotlib").use("Agg")
    except ImportError:
        raise SystemExit("a plot needs matplotlib: pip install matplotlib") from None
    return import_module("matplotlib.pyplot")


def draw(figures: Any, path: Path) -> None:
    """Draw one panel a figure: groups of bars by number of chats, one bar a target."""
    plot = pyplot()
    results = figures["results"]
    targets = list(dict.fromkeys(result["target"] for result in results))
    canvas, axes = plot.subplots(1, len(PANELS), figsize=(15, 4.5), layout="constrained")
    for axis, (name, title) in zip(axes, PANELS, strict=True):
        _panel(axis, results, targets, name)
        axis.set_title(title)
    canvas.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(targets)
    )
    machine = figures["machine"]
    canvas.suptitle(f"{machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}")
    canvas.savefig(path, dpi=150)
    plot.close(canvas)


def draw_memory(figures: Any, path: Path) -> None:
    """Draw one panel a role, one line a process: its memory over the minutes of a soak."""
    plot = pyplot()
    lives = figures["memory"]
    roles = list(dict.fromkeys(life["role"] for life in lives))
    rows = (len(roles) + 1) // 2
    canvas, axes = plot.subplots(rows, 2, figsize=(11, 2.2 * rows), layout="constrained")
    for axis, role in zip(axes.flat, roles, strict=False):
        for life in lives:
            if life["role"] == role:
                axis.plot([at / 60 for at in life["times_s"]], life["sizes_mb"], linewidth=1)
        axis.set_title(f"{role} (MB)", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(roles) :]:
        axis.set_visible(False)
    machine = figures["machine"]
    canvas.suptitle(
        f"Memory of every process, minutes; {machine['cores']} cores, {machine['date'][:10]}"
    )
    canvas.savefig(path, dpi=90)
    plot.close(canvas)


def _panel(axis: Any, results: Any, targets: list[str], name: str) -> None:
    levels = sorted({result["chats"] for result in results})
    width = 0.8 / len(targets)
    for place, target in enumerate(targets):
        values = {r["chats"]: r["median"][name] for r in results if r["target"] == target}
        spots = [group - 0.4 + (place + 0.5) * width for group in range(len(levels))]
        bars = axis.bar(spots, [values[level] for level in levels], width, label=target)
        axis.bar_label(bars, fmt="{:,.0f}", fontsize=7)
    axis.set_xticks(range(len(levels)), [f"{level} chat{'s'[: level > 1]}" for level in levels])
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw a file that `--json` wrote."""
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description=__doc__)
    parser.add_argument("figures", type=Path)
    parser.add_argument("picture", type=Path)
    flags = parser.parse_args()
    figures = json.loads(flags.figures.read_text())
    (draw_memory if "memory" in figures else draw)(figures, flags.picture)


if __name__ == "__main__":
    main()
