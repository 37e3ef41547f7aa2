"""JSON that another server replied with: parsed, and fit to be kept and told on.

Knows nothing of what it says.
"""

from __future__ import annotations

import json
import re
from typing import Any

_HALF_CHARACTERS = re.compile("[\ud800-\udfff]")


def parse(raw: bytes) -> Any:
    """Parse a reply.

    JSON can say half of a surrogate pair, which no encoding can write; it becomes U+FFFD.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if b"\\ud" not in raw.lower():
        return value
    return json.loads(_HALF_CHARACTERS.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
