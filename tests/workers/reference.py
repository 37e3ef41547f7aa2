"""What answers should be, by `model.generate` alone, and ways to run a scheduler."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from broker.messages import ChatMessage, GenerateRequest, ImagePart, Part, SamplingParams, TextPart
from workers.engines import load_engine
from workers.engines.base import EngineOptions
from workers.engines.local import LocalEngine
from workers.scheduler import Output, Scheduler
from workers.sequence import Sequence


def load(folder: Path, chunk_tokens: int = 7, **options: object) -> LocalEngine:
    """Load with few slots and tiny chunks, so that even short prompts take several."""
    chosen = {"model_path": str(folder), "slots": 3, **options}
    engine = load_engine(EngineOptions(**chosen), lambda percent: None)  # type: ignore[arg-type]
    assert isinstance(engine, LocalEngine)
    engine.chunk_tokens = chunk_tokens
    return engine


def request(request_id: str, *parts: str | ImagePart, **sampling: object) -> GenerateRequest:
    """A one-turn request, greedy unless told otherwise."""
    content: list[Part] = [TextPart(text=part) if isinstance(part, str) else part for part in parts]
    return GenerateRequest(
        id=request_id,
        model="any",
        messages=(ChatMessage(role="user", content=tuple(content)),),
        sampling=SamplingParams.model_validate({"temperature": 0.0, **sampling}),
        created_s=0.0,
    )


def picture(seed: int, size: tuple[int, int]) -> tuple[ImagePart, bytes]:
    """A noisy picture as PNG, and the part that refers to it."""
    noise = torch.randint(0, 255, (*reversed(size), 3), dtype=torch.uint8, generator=_rng(seed))
    buffer = io.BytesIO()
    Image.fromarray(noise.numpy()).save(buffer, "PNG")
    data = buffer.getvalue()
    return ImagePart(sha256=hashlib.sha256(data).hexdigest()), data


def generate(folder: Path, sequence: Sequence, **options: object) -> list[int]:
    """The greedy answer of transformers itself to a sequence's prompt, alone in its batch."""
    model: Any = _load(folder)
    pixels: dict[str, torch.Tensor] = {}
    for span in sequence.payload.spans:  # type: ignore[attr-defined]
        for name, value in span.pixels.inputs.items():
            pixels[name] = torch.cat([pixels[name], value]) if name in pixels else value
    ids = torch.tensor([sequence.prompt_ids])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=sequence.max_tokens,
        do_sample=False,
        **pixels,
        **options,
    )
    answer: list[int] = output[0, len(sequence.prompt_ids) :].tolist()
    return answer


def own_logprobs(folder: Path, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of the id behind each of a text model's ids, `[ids, vocabulary]`."""
    with torch.inference_mode():
        logits: torch.Tensor = _load(folder)(torch.tensor([ids])).logits[0]
    return logits.float().log_softmax(dim=-1)


def run(scheduler: Scheduler) -> dict[str, list[Output]]:
    """Step until nothing is left; return each request's outputs."""
    outputs: dict[str, list[Output]] = {}
    while scheduler.has_work:
        collect(scheduler.step(), outputs)
    return outputs


def collect(new: Iterable[Output], outputs: dict[str, list[Output]]) -> None:
    """Sort outputs by request."""
    for output in new:
        outputs.setdefault(output.request_id, []).append(output)


def assert_answered_as_alone(
    engine: LocalEngine,
    folder: Path,
    wanted: Iterable[GenerateRequest],
    images: Mapping[str, bytes],
) -> None:
    """Run requests that join and leave at different steps, and compare each with the model."""
    scheduler, outputs, expected = Scheduler(engine), dict[str, list[Output]](), {}
    for each in wanted:
        sequence = engine.prepare(each, images)
        expected[each.id] = generate(folder, sequence)
        scheduler.add(sequence)
        collect(scheduler.step(), outputs)
        collect(scheduler.step(), outputs)
    while scheduler.has_work:
        collect(scheduler.step(), outputs)
    assert {key: ids(value) for key, value in outputs.items()} == expected


def ids(outputs: list[Output]) -> list[int]:
    """All tokens of an answer."""
    return [token_id for output in outputs for token_id in output.token_ids]


def text(outputs: list[Output]) -> str:
    """All text of an answer."""
    return "".join(output.text for output in outputs)


_models: dict[Path, transformers.PreTrainedModel] = {}


def _load(folder: Path) -> transformers.PreTrainedModel:
    if folder not in _models:
        config = transformers.AutoConfig.from_pretrained(folder)
        images = hasattr(config, "vision_config")
        auto = transformers.AutoModelForImageTextToText if images else None
        cls: Any = auto or transformers.AutoModelForCausalLM
        _models[folder] = cls.from_pretrained(folder, dtype=torch.float32).eval()
    return _models[folder]


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
