"""The line about files that are too large, which the page refuses before they are uploaded.

The service's own check stays, and says the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from broker.settings import Settings
from frontend import pictures
from frontend.ui.chats_panel import QUIET

_REFUSE = Path(__file__).with_name("oversize.js").read_text()
_FORGET = "() => { document.querySelector('#oversize p').textContent = ''; return []; }"


def oversize_line(page: gr.Blocks, sends: Sequence[Any], settings: Settings) -> None:
    """Make the line, here in the layout, and look at each file that is added to the page.

    What was refused is forgotten with the events `sends`.
    """
    gr.HTML('<p class="line error" role="alert"></p>', padding=False, elem_id="oversize")
    limit = settings.max_image_bytes
    values = f"{limit}, {json.dumps(pictures.too_large('SIZE', limit))}"
    page.load(None, None, None, js=f"() => ({_REFUSE.rstrip()})({values})", **QUIET)
    gr.on(sends, None, None, None, js=_FORGET, **QUIET)
