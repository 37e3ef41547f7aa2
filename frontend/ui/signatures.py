"""Spares Gradio the same work again: what the parameters of its components are."""

from __future__ import annotations

import inspect
from collections.abc import Iterable


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
