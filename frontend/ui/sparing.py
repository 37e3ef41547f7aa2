"""Spares Gradio work that is the same each time, or for nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from gradio import Blocks, state_holder


def keep_signatures(components: Iterable[object]) -> None:
    """Note the signature of each constructor where Python looks for it first.

    Gradio asks for it whenever it updates a button and for each component of a new tab; finding it
    out each time was a tenth of what a process does when many people ask at once.
    """
    kinds = {kind for each in components for kind in type(each).__mro__}
    for kind in kinds - {object}:
        if made := kind.__dict__.get("__init__"):
            constructor = inspect.unwrap(made)
            constructor.__signature__ = inspect.signature(constructor)


class Session(state_holder.SessionState):
    """What Gradio keeps of a tab, without a description of each component for Gradio's deep links.

    Nothing here makes such a link. To describe them took 5 ms and 220 KiB for each new tab, and
    Gradio keeps those of the last 10,000.
    """

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))  # type: ignore[arg-type]
        self.blocks_config.config_for_block = _nothing  # type: ignore[assignment,method-assign]


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


def describe_no_tabs() -> None:
    """Have Gradio keep `Session` of each new tab."""
    state_holder.SessionState = Session  # type: ignore[misc]
