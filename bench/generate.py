"""Bare transformers: `model.generate` on one static batch after the other, or one by one.

What a program gets that calls the library itself. A batch is answered when its longest answer is;
the next question waits until then. Times of tokens are taken after each step of `generate`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any, cast

import torch
import transformers
from PIL import Image
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from bench.answers import Answer
from bench.prompts import Ask

BATCH, ONE_BY_ONE = "batch", "one by one"


class Clock(transformers.StoppingCriteria):
    """Notes the time of each step, and never stops anything."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Note the time: a token of each row has just been chosen."""
        self.times_s.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Generate:
    """One checkpoint in the number format it is kept in, on the CPU."""

    def __init__(self, path: str, max_tokens: int, ignore_eos: bool) -> None:
        config = transformers.AutoConfig.from_pretrained(path)
        self._max_tokens = max_tokens
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            cls: Any = transformers.AutoModelForImageTextToText
            self._processor = _load_processor(path, config)
            self._tokenizer = self._processor.tokenizer
        else:
            cls = transformers.AutoModelForCausalLM
            self._tokenizer = self._processor = transformers.AutoTokenizer.from_pretrained(path)
        self._tokenizer.padding_side = "left"
        self._model = cls.from_pretrained(path, dtype="auto").eval()
        settings = self._model.generation_config
        named = settings.eos_token_id
        self._eos_ids = set(named if isinstance(named, list) else [named])
        if ignore_eos:
            settings.eos_token_id, self._eos_ids = None, set()

    def run(self, way: str, asks: Sequence[Ask], parallel: int) -> list[Answer]:
        """Answer everything; a chat asks again once it has its answer, and waits its turn."""
        rows = parallel if way == BATCH else 1
        answers: list[Answer] = []
        begun_s = time.perf_counter()
        for start in range(0, len(asks), rows):
            asker = start - parallel
            sent_s = answers[asker].ended_s if asker >= 0 else begun_s
            answers += self._answer(asks[start : start + rows], sent_s)
        return answers

    def _answer(self, asks: Sequence[Ask], sent_s: float) -> list[Answer]:
        inputs = self._inputs(asks)
        clock = Clock()
        with torch.inference_mode():
            rows = self._model.generate(
                **inputs,
                max_new_tokens=self._max_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
                stopping_criteria=transformers.StoppingCriteriaList([clock]),
            )
        prompt = inputs["input_ids"].shape[1]
        ended_s = time.perf_counter()
        return [self._told(row[prompt:].tolist(), clock, sent_s, ended_s) for row in rows]

    def _told(self, ids: list[int], clock: Clock, sent_s: float, ended_s: float) -> Answer:
        """Make an answer of a row, without the padding behind its end."""
        ends = (place for place, token_id in enumerate(ids, 1) if token_id in self._eos_ids)
        count = next(ends, len(ids))
        arrivals = [(time_s, 1.0) for time_s in clock.times_s[:count]]
        return Answer(sent_s, arrivals, ended_s, tokens=count)

    def _inputs(self, asks: Sequence[Ask]) -> dict[str, torch.Tensor]:
        texts = [self._render(ask) for ask in asks]
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        images = [Image.open(io.BytesIO(ask.png)) for ask in asks if ask.png]
        if images:
            options["images"] = images
        inputs = dict(self._processor(text=texts, add_special_tokens=False, **options))
        inputs.pop("token_type_ids", None)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        return inputs

    def _render(self, ask: Ask) -> str:
        content: object = ask.text
        if ask.png is not None:
            content = [{"type": "image"}, {"type": "text", "text": ask.text}]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return str(text)


def _load_processor(path: str, config: Any) -> Any:
    """Load a processor without its video part, which would ask for torchvision."""
    family = cast(Any, PROCESSOR_MAPPING)[type(config)]
    kept = classmethod(lambda _: ["image_processor", "tokenizer"])
    cls: Any = type(family.__name__, (family,), {"get_attributes": kept})
    return cls.from_pretrained(path, backend="pil")
