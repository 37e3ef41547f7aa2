"""The sliders of the sampling parameters, alike on all pages but for where they stand at first."""

from __future__ import annotations

import gradio as gr

from frontend.ui.language import label


def sampling_sliders(
    temperature: float, top_p: float, most_tokens: int, *, penalty: bool = False
) -> list[gr.Slider]:
    """Temperature, top-p, repetition penalty if that is wanted, and most output tokens."""
    sliders = [
        gr.Slider(0.0, 1.0, temperature, step=0.1, label=label("Temperature"), interactive=True),
        gr.Slider(0.05, 1.0, top_p, step=0.05, label=label("Top-p"), interactive=True),
    ]
    if penalty:
        sliders.append(
            gr.Slider(1.0, 1.5, 1.0, step=0.02, label=label("Repetition penalty"), interactive=True)
        )
    return [
        *sliders,
        gr.Slider(
            64, most_tokens, 512, step=64, label=label("Max output tokens"), interactive=True
        ),
    ]
