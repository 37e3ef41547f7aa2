"""Single words that stand for a whole question, for who asks the same of many pictures."""

from __future__ import annotations

from typing import Final

_DETECT: Final = "Detect every object in the picture: give the name and the box of each one."
_DETECT_ZH: Final = "请检测图片中的所有物体，给出每个物体的名称和边界框。"  # noqa: RUF001

ALIASES: Final = {
    "detection": _DETECT,
    "object detection": _DETECT,
    "检测": _DETECT_ZH,
    "目标检测": _DETECT_ZH,
}
"""By the word in small letters; it counts where it is all that is asked."""


def spelled_out(text: str) -> str:
    """The question that a text stands for: nearly always itself."""
    return ALIASES.get(text.strip().casefold(), text)
