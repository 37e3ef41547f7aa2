"""Each family answers as transformers alone does: processor, template, positions and masks."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from broker.events import Delta, End
from broker.messages import ChatMessage, GenerateRequest, ImagePart, SamplingParams, TextPart
from frontend.service import Service
from tests.stack import Stack, own_stack
from tests.workers import families
from tests.workers.reference import ids, load, picture, run
from workers.engines import native
from workers.engines.processors import load_processor
from workers.scheduler import Scheduler

PICTURES = [picture(1, (60, 40)), picture(2, (30, 90)), picture(3, (64, 64))]
BYTES = {part.sha256: data for part, data in PICTURES}
FIRST, SECOND, THIRD = (part for part, _ in PICTURES)


def user(*parts: str | ImagePart) -> ChatMessage:
    content = tuple(TextPart(text=part) if isinstance(part, str) else part for part in parts)
    return ChatMessage(role="user", content=content)


def assistant(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=(TextPart(text=text),))


CHATS: dict[str, tuple[ChatMessage, ...]] = {
    "no picture": (user("Hello there, how are you?"),),
    "one picture": (user(FIRST, "What colour is the circle?"),),
    "three pictures": (user(FIRST, SECOND, "Compare these with", THIRD, "the last"),),
    "two turns": (user(SECOND, "What?"), assistant("A red circle."), user(FIRST, "And here?")),
    "text again": (user("The quick brown fox jumps over"),),
}


class Alone:
    """A checkpoint as transformers runs it, one conversation at a time."""

    def __init__(self, folder: Path) -> None:
        config = transformers.AutoConfig.from_pretrained(folder)
        self.processor = load_processor(str(folder), config)
        auto: Any = transformers.AutoModelForImageTextToText
        self._model = auto.from_pretrained(folder, dtype=torch.float32).eval()
        self._takes = set(inspect.signature(self._model.forward).parameters)

    def text(self, messages: tuple[ChatMessage, ...]) -> str:
        """What the checkpoint's template writes."""
        text: str = self.processor.tokenizer.apply_chat_template(
            [{"role": m.role, "content": self._parts(m)} for m in messages],
            tokenize=False,
            add_generation_prompt=True,
        )
        return text

    def inputs(self, messages: tuple[ChatMessage, ...]) -> Mapping[str, torch.Tensor]:
        """What the model's own processor makes of the whole conversation."""
        shas = [sha for message in messages for sha in message.images]
        return self.read(self.text(messages), shas)

    def read(self, text: str, shas: list[str]) -> Mapping[str, torch.Tensor]:
        """What the model's own processor makes of a text with its image tokens."""
        images = [Image.open(io.BytesIO(BYTES[sha])).convert("RGB") for sha in shas]
        output = self.processor(
            text=[text], images=images or None, return_tensors="pt", add_special_tokens=False
        )
        return {name: value for name, value in output.items() if name in self._takes}

    def answer(self, messages: tuple[ChatMessage, ...], tokens: int) -> list[int]:
        return self.generate(self.inputs(messages), tokens)

    def generate(self, inputs: Mapping[str, torch.Tensor], tokens: int) -> list[int]:
        with torch.inference_mode():
            output = self._model.generate(
                **inputs, max_new_tokens=tokens, do_sample=False, eos_token_id=None
            )
        answer: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return answer

    def _parts(self, message: ChatMessage) -> list[dict[str, str]]:
        return [
            {"type": "image"}
            if isinstance(part, ImagePart)
            else {"type": "text", "text": part.text}
            for part in message.content
        ]


def ask(name: str, tokens: int) -> GenerateRequest:
    sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    return GenerateRequest(
        id=name, model="any", messages=CHATS[name], sampling=sampling, created_s=0.0
    )


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_family_answers_in_a_batch_as_transformers_does_alone(
    family: str, tmp_path: Path
) -> None:
    folder = families.FAMILIES[family](tmp_path)
    engine, alone = load(folder), Alone(folder)
    scheduler, expected = Scheduler(engine), {}
    for place, name in enumerate(CHATS):
        sequence = engine.prepare(ask(name, tokens=8 + 3 * place), BYTES)
        assert list(sequence.prompt_ids) == alone.inputs(CHATS[name])["input_ids"][0].tolist()
        expected[name] = alone.answer(CHATS[name], tokens=8 + 3 * place)
        scheduler.add(sequence)
    outputs = run(scheduler)
    assert {name: ids(output) for name, output in outputs.items()} == expected
    assert len({tuple(answer) for answer in expected.values()}) == len(CHATS)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_family_tells_what_became_of_its_pictures(family: str, tmp_path: Path) -> None:
    engine = load(families.FAMILIES[family](tmp_path))
    sequence = engine.prepare(ask("three pictures", 1), BYTES)
    told = sequence.usage.images
    assert [(each.width, each.height) for each in told] == [(60, 40), (30, 90), (64, 64)]
    spans = sequence.payload.spans  # type: ignore[attr-defined]
    for each, span in zip(told, spans, strict=True):
        values = span.pixels.inputs["pixel_values"]
        assert each.tokens == len(span.pixels.ids) >= len(span.positions)
        pixels = each.tiles * each.tile_width * each.tile_height
        frames = 2 if "image_grid_thw" in span.pixels.inputs else 1  # a picture counts as two
        assert pixels * 3 * frames == values.numel() > 0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with own_stack(tmp_path_factory.mktemp("families")) as made:
        yield made


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_worker_serves_a_family(family: str, stack: Stack, tmp_path: Path) -> None:
    folder = families.FAMILIES[family](tmp_path)
    alone, service = Alone(folder), Service(stack.settings())
    worker = stack.worker("--model-path", str(folder), "--model-name", family, "--dtype", "float32")
    for data in BYTES.values():
        service.pictures.add(data)
    sampling = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)
    requests = {name: service.submit(family, CHATS[name], sampling) for name in CHATS}
    told = {name: [e for e in service.follow(each) if e] for name, each in requests.items()}
    worker.stop()
    service.close()
    for name, events in told.items():
        answer = [i for event in events if isinstance(event, Delta | End) for i in event.token_ids]
        assert answer == alone.answer(CHATS[name], tokens=10)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_family_goes_on_from_what_it_holds_and_from_what_was_told(
    family: str, tmp_path: Path
) -> None:
    folder = families.FAMILIES[family](tmp_path)
    engine = load(folder)
    scheduler = Scheduler(engine)
    scheduler.add(engine.prepare(ask("two turns", 12), BYTES))
    whole = ids(run(scheduler)["two turns"])
    scheduler.add(engine.prepare(ask("two turns", 12), BYTES, tuple(whole[:5])))
    again = run(scheduler)["two turns"]
    assert whole[:5] + ids(again) == whole
    usage = again[-1].usage
    assert usage is not None and usage.cached_tokens == usage.prompt_tokens


@pytest.mark.skipif(
    not native.has_linear() or not native.compiler(), reason="no AVX512_BF16, or g++"
)
@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_family_runs_with_8_bit_weights(family: str, tmp_path: Path, compile_dir: str) -> None:
    folder = families.FAMILIES[family](tmp_path)
    engine = load(folder, dtype="bfloat16", load_8bit=True, compile_dir=compile_dir)
    scheduler = Scheduler(engine)
    for name in CHATS:
        scheduler.add(engine.prepare(ask(name, 8), BYTES))
    outputs = run(scheduler)
    assert {name: len(ids(output)) for name, output in outputs.items()} == dict.fromkeys(CHATS, 8)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", ["Qwen3-VL-MoE"])  # three axes, additions to layers, experts
def test_a_family_answers_compiled_as_transformers_does_alone(
    family: str, tmp_path: Path, compile_dir: str
) -> None:
    folder = families.FAMILIES[family](tmp_path)
    engine, alone = load(folder, compile="now", compile_dir=compile_dir), Alone(folder)
    assert engine.runner.compiled
    scheduler = Scheduler(engine)
    for name in CHATS:
        scheduler.add(engine.prepare(ask(name, 12), BYTES))
    outputs = run(scheduler)
    assert {name: ids(output) for name, output in outputs.items()} == {
        name: alone.answer(messages, 12) for name, messages in CHATS.items()
    }
