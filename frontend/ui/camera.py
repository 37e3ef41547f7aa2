"""The button that puts a still of the camera among a message's pictures, for desktops too.

Gradio's box has none. The picture goes the way of a chosen file, so that whatever is said and
checked of files holds for it.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from frontend.ui.chats_panel import QUIET
from frontend.ui.language import label

_OPEN = Path(__file__).with_name("camera.js").read_text()
_SHOW = """() => {
  const isAllowed = document.featurePolicy?.allowsFeature("camera") ?? true;
  if (navigator.mediaDevices && isAllowed) document.documentElement.dataset.camera = "";
  return [];
}"""
"""Browsers give a camera over https or to this machine, to a frame if the page around allows it."""


def camera_button(page: gr.Blocks) -> None:
    """Make the button, here in the layout; it is hidden where there cannot be a camera."""
    button = gr.Button(label("Camera"), size="sm", min_width=72, elem_id="camera")
    button.click(None, None, None, js=_OPEN, **QUIET)
    page.load(None, None, None, js=_SHOW, **QUIET)
