"""In which order lists of models are shown: InternVL's, to its programs and on the chat page."""

from __future__ import annotations

import re

_SIZE = re.compile(r"InternVL2-([0-9]+)B")


def place(name: str) -> tuple[int, int, str]:
    """Sort key of a model: Pro first, then InternVL2 by size, the rest by name."""
    if "Pro" in name:
        return 0, 0, name
    size = _SIZE.match(name)
    return (1, -int(size[1]), name) if size else (2, 0, name)
