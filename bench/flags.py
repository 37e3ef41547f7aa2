"""What the command lines of the benchmarks against running servers have in common."""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path

from bench.http import HttpTarget, first_model


def make_parser(module: str, description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of the common flags; its `--seed` is a fresh one if nobody gives any."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--target", action="append", default=[], metavar="NAME=URL[,model=NAME][,extra={json}]",
        help="a running server; an extra field of null is left out of requests")  # fmt: skip
    add("--rounds", type=int, default=rounds, help="rounds after the one that warms up")
    add("--ignore-eos", action="store_true", help="have answers go on to their full length")
    add("--seed", type=int, default=secrets.randbelow(10**9),
        help="what another run printed, for its very questions (default: new ones)")  # fmt: skip
    add("--timeout", type=float, default=300.0, metavar="S", help="longest wait for an answer")
    add("--json", type=Path, metavar="FILE", help="keep all figures")
    return parser


def http_target(text: str, flags: argparse.Namespace) -> HttpTarget:
    """Read `NAME=URL[,model=NAME][,extra={json}]`; answers have `flags.tokens` at most."""
    place, _, extra = text.partition(",extra=")
    place, _, model = place.partition(",model=")
    name, equals, url = place.partition("=")
    if not equals:
        raise SystemExit(f"--target {text}: it should be NAME=URL[,model=NAME][,extra={{json}}]")
    fields: dict[str, object] = {"ignore_eos": True} if flags.ignore_eos else {}
    try:
        fields |= json.loads(extra or "{}")
    except ValueError as error:
        raise SystemExit(f"--target {name}: extra is not a JSON object: {error}") from None
    url = url.rstrip("/").removesuffix("/v1")
    model = model or first_model(url)
    return HttpTarget(name, url, model, flags.tokens, flags.timeout, fields)


def settings(flags: argparse.Namespace) -> dict[str, object]:
    """Return the flags that figures depend on, the seed among them."""
    return {key: value for key, value in vars(flags).items() if not isinstance(value, Path)}
