"""transformers alone loads the bundled model, processor included, and gives right answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from PIL import Image, ImageDraw

import workers.demo

pytest.importorskip("torchvision", reason="AutoProcessor's video part needs torchvision")


def test_auto_classes_answer_about_a_picture() -> None:
    folder = Path(workers.demo.__file__).with_name("model")
    processor: Any = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
    picture = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(picture).ellipse((30, 60, 110, 140), "red")
    ImageDraw.Draw(picture).rectangle((180, 50, 270, 140), "blue")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What do you see?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    made = model.generate(**inputs, max_new_tokens=30)
    answer = processor.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == "a red circle and a blue square"
