"""The commands of `python -m broker`: each module adds its own to the parser, with what runs them.

A command takes the settings and its flags, prints, and returns an exit status; errors are raised.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
"""What a parser's `add_subparsers` returns."""


def done(succeeded: bool, otherwise: str) -> int:
    """Turn an outcome into an exit status; say on standard error why it is not 0."""
    if not succeeded:
        print(f"heliograph: {otherwise}", file=sys.stderr)
    return 0 if succeeded else 1
