"""Whose a tab is: the owner of its chats, by a cookie that the page's server sets.

Redis knows an owner by a digest, so that whoever reads it cannot take somebody's place.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Final

COOKIE: Final = "heliograph_owner"


def new_token() -> str:
    """Draw the value of a cookie."""
    return secrets.token_urlsafe(32)


def known_token(cookies: Mapping[str, str]) -> str:
    """Return the token that a browser sent, empty if it sent none that is one."""
    token = cookies.get(COOKIE, "")
    return token if re.fullmatch(r"[\w-]{43}", token, re.ASCII) else ""


def owner(cookies: Mapping[str, str], tab: str = "") -> str:
    """Return who owns the chats of a browser; without a cookie each tab is its own owner.

    Args:
        cookies: what the browser sent.
        tab: the session that Gradio gives to each tab.
    """
    token = known_token(cookies)
    return hashlib.sha256(f"{'cookie' if token else 'tab'}:{token or tab}".encode()).hexdigest()
