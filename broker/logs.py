"""How every process of the product writes its log lines."""

from __future__ import annotations

import logging

from broker.settings import Settings


def set_up(settings: Settings) -> None:
    """Log to standard error from the level that is set on; HTTP requests as such are not news."""
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)
