"""A ready prompt in engines and workers: pictures, tiles, resumption and answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.errors import InvalidRequest
from broker.events import Delta, End
from broker.messages import (
    ChatMessage,
    GenerateRequest,
    ImagePart,
    SamplingParams,
)
from frontend.service import Service
from tests.pictures import scene
from tests.stack import Stack
from tests.workers import families
from tests.workers.ready import VICUNA, ready, say
from tests.workers.reference import ids, load, run
from tests.workers.test_families import BYTES, CHATS, FIRST, SECOND, Alone
from workers.engines.local import LocalEngine
from workers.scheduler import Scheduler
from workers.sequence import Sequence


def request(*messages: ChatMessage, name: str = "r", **wish: Any) -> GenerateRequest:
    sampling = SamplingParams(temperature=0.0, **{"max_tokens": 12, "ignore_eos": True, **wish})
    return GenerateRequest(
        id=name, model="any", messages=messages, sampling=sampling, created_s=0.0
    )


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_families_own_prompt_gives_what_transformers_makes_of_that_text(
    family: str, tmp_path: Path
) -> None:
    folder = families.FAMILIES[family](tmp_path)
    engine, alone = load(folder), Alone(folder)
    scheduler, expected = Scheduler(engine), {}
    for name, messages in CHATS.items():
        shown = [part for m in messages for part in m.content if isinstance(part, ImagePart)]
        prompt = ready(alone.text(messages), *shown, mark=alone.processor.image_token)
        sequence = engine.prepare(request(prompt, name=name), BYTES)
        assert list(sequence.prompt_ids) == alone.inputs(messages)["input_ids"][0].tolist()
        expected[name] = alone.answer(messages, 12)
        scheduler.add(sequence)
    assert {name: ids(output) for name, output in run(scheduler).items()} == expected


@pytest.mark.parametrize("family", families.FAMILIES)
def test_bare_marks_anywhere_in_a_prompt_get_what_stands_around_a_familys_pictures(
    family: str, tmp_path: Path
) -> None:
    folder = families.FAMILIES[family](tmp_path)
    engine, alone = load(folder), Alone(folder)
    token = alone.processor.image_token
    if "Qwen" in family:
        token = f"<|vision_start|>{token}<|vision_end|>"
    text = "The <image><|im_end|>\nfox <image><image> box"
    shown = (FIRST, SECOND, FIRST)
    sequence = engine.prepare(request(ready(text, *shown)), BYTES)
    inputs = alone.read(text.replace("<image>", token), [part.sha256 for part in shown])
    assert list(sequence.prompt_ids) == inputs["input_ids"][0].tolist()
    scheduler = Scheduler(engine)
    scheduler.add(sequence)
    assert ids(run(scheduler)["r"]) == alone.generate(inputs, 12)


LATER = f"{VICUNA} USER: <image>\nWhat? ASSISTANT: A ball.</s>USER: <image><image>And? ASSISTANT:"
ROLES = (
    say("user", "What?", FIRST),
    say("assistant", "A ball."),
    say("user", "And?", SECOND, FIRST),
)


@pytest.fixture(scope="module")
def engine(internvl: Path) -> LocalEngine:
    return load(internvl)


@pytest.mark.parametrize("tiles", [None, 2, 4])
def test_pictures_of_a_prompt_that_is_read_back_share_tiles_by_turns(
    engine: LocalEngine, tiles: int | None
) -> None:
    prompt = ready(LATER, FIRST, SECOND, FIRST)
    by_prompt, by_roles = (
        engine.prepare(request(*messages, max_input_tiles=tiles), BYTES)
        for messages in ((prompt,), ROLES)
    )
    assert by_prompt.prompt_ids == by_roles.prompt_ids
    assert _features(by_prompt) == _features(by_roles)


def test_pictures_of_a_prompt_that_stays_share_tiles_as_those_of_one_turn(
    engine: LocalEngine,
) -> None:
    shown = (FIRST, SECOND)
    prompt = engine.prepare(request(ready("a <image><image>b", *shown), max_input_tiles=4), BYTES)
    roles = engine.prepare(request(say("user", "a", *shown), max_input_tiles=4), BYTES)
    alone = engine.prepare(request(say("user", "a", SECOND), max_input_tiles=4), BYTES)
    assert _features(prompt) == _features(roles)
    assert _features(prompt)[1] < _features(alone)[0]


def test_an_answer_to_a_prompt_goes_on_from_what_was_told(engine: LocalEngine) -> None:
    for text, shown in ((LATER, (FIRST, SECOND, FIRST)), ("The fox <image> box", (SECOND,))):
        whole = _answer(engine, ready(text, *shown), ())
        assert len(whole) == 12
        assert _answer(engine, ready(text, *shown), tuple(whole[:5])) == whole[5:]


def test_a_request_stops_an_answer_to_a_prompt_by_its_own_texts(engine: LocalEngine) -> None:
    whole = engine.prepare(request(ready("The fox")), {})
    scheduler = Scheduler(engine)
    scheduler.add(whole)
    text = "".join(output.text for output in run(scheduler)["r"])
    scheduler.add(engine.prepare(request(ready("The fox"), stop=("###", text[3:6])), {}))
    stopped = run(scheduler)["r"]
    assert "".join(output.text for output in stopped) == text[: text.index(text[3:6])]
    assert stopped[-1].finish_reason == "stop"


def _features(sequence: Sequence) -> list[int]:
    """How many features each picture has."""
    spans: Any = sequence.payload
    return [len(span.positions) for span in spans.spans]


def _answer(engine: LocalEngine, prompt: ChatMessage, told: tuple[int, ...]) -> list[int]:
    scheduler = Scheduler(engine)
    scheduler.add(engine.prepare(request(prompt), BYTES, told))
    return ids(run(scheduler)["r"])


TWO = scene(("circle", "red", (60, 60)), ("square", "blue", (160, 160)))
QUESTION = "How many shapes are there?"
TEXTS = {
    "LLaVA's": f"{VICUNA} USER: <image>\n{QUESTION} ASSISTANT:",
    "FastChat's": f"{VICUNA} USER: <image>{QUESTION} ASSISTANT:",
    "llava_v0": f"###Human: <image>\n{QUESTION}###Assistant:",
    "mmtag": f"USER: <Image><image></Image> ASSISTANT: Received.</s>USER: {QUESTION} ASSISTANT:",
    "its own": f"<|im_start|>user\n<image>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
}


@pytest.fixture(scope="module")
def service(demo_stack: Stack) -> Iterator[Service]:
    made = Service(demo_stack.settings())
    yield made
    made.close()


def answered(service: Service, *messages: ChatMessage) -> tuple[str, End]:
    sampling = SamplingParams(temperature=0.0, stop=("</s>", "###"))
    asked = service.submit("heliograph-demo", messages, sampling)
    events = [event for event in service.follow(asked) if event is not None]
    assert isinstance(events[-1], End), events[-1]
    return "".join(e.text for e in events if isinstance(e, Delta | End)), events[-1]


@pytest.mark.parametrize("whose", TEXTS)
def test_a_prompt_has_the_ids_and_the_answer_of_role_messages(
    whose: str, demo: Path, service: Service
) -> None:
    shown = ImagePart(sha256=service.pictures.add(TWO))
    prompt, roles = ready(TEXTS[whose], shown), say("user", QUESTION, shown)
    engine = load(demo)
    sequences = [engine.prepare(request(each), {shown.sha256: TWO}) for each in (prompt, roles)]
    assert sequences[0].prompt_ids == sequences[1].prompt_ids
    text, end = answered(service, prompt)
    expected, expected_end = answered(service, roles)
    assert (text, end.usage.prompt_tokens) == (expected, expected_end.usage.prompt_tokens)
    assert "two" in text.lower()


def test_a_worker_goes_on_with_a_conversation_of_prompts(service: Service) -> None:
    shown = ImagePart(sha256=service.pictures.add(TWO))
    first, _ = answered(service, ready(TEXTS["LLaVA's"], shown))
    again = TEXTS["LLaVA's"] + f" {first}</s>USER: What colour is the circle? ASSISTANT:"
    assert "red" in answered(service, ready(again, shown))[0].lower()


def test_the_service_takes_a_prompt_only_alone_and_only_if_it_says_something(
    service: Service,
) -> None:
    with pytest.raises(InvalidRequest, match="A ready prompt is the whole conversation"):
        service.submit("heliograph-demo", (ready("a"), say("user", "b")), SamplingParams())
    with pytest.raises(InvalidRequest, match="message is empty"):
        service.submit("heliograph-demo", (ready(" "),), SamplingParams())
