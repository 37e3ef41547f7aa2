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
        ValueError: it is not JSON in UTF-8, or nested too deeply.
    """
    text = raw.decode()  # json.loads would let half characters pass in bytes
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\ud" not in text.lower():
        return value
    return json.loads(_HALF_CHARACTERS.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
