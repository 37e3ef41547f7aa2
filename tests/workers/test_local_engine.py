"""The local engine answers exactly as the model alone would, whatever runs beside a request."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from broker.messages import ImagePart
from tests.workers import checkpoints
from tests.workers.reference import (
    assert_answered_as_alone,
    collect,
    generate,
    ids,
    load,
    picture,
    request,
    run,
    text,
)
from workers.scheduler import Output, Scheduler

DEEPSEEK: dict[str, object] = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 12},
    "gemma": {},
    "gemma3_text": {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "gemma2": {"sliding_window": 12},
    "gpt_oss": {"sliding_window": 12, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": DEEPSEEK,
    "gpt2": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_answers_equal_those_of_each_request_alone(family: str, tmp_path: Path) -> None:
    folder = checkpoints.save_text_model(tmp_path, family, **FAMILIES[family])
    wanted = [
        request(
            str(number), "The quick brown fox " * (1 + number % 3), max_tokens=5 + 7 * number % 20
        )
        for number in range(6)
    ]
    assert_answered_as_alone(load(folder), folder, wanted, {})


@pytest.mark.parametrize("save", [checkpoints.save_internvl, checkpoints.save_llava])
def test_pictures_and_text_mixed_in_one_batch_are_answered_as_alone(
    save: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = save(tmp_path)
    engine = load(folder)
    (first, first_data), (second, second_data) = picture(1, (60, 40)), picture(2, (30, 90))
    images = {first.sha256: first_data, second.sha256: second_data}
    wanted = [
        request("one picture", first, "What is it?", max_tokens=12),
        request("text", "Hello there", max_tokens=30),
        request("two pictures", "Compare", first, "with", second, max_tokens=9),
        request("same picture, one tile", first, "What?", max_tokens=15, max_input_tiles=1),
        request("picture twice", first, first, max_tokens=8),
    ]
    sequences = [engine.prepare(each, images) for each in wanted]
    expected = {each.request_id: generate(folder, each) for each in sequences}
    scheduler = Scheduler(engine)
    for each in sequences:
        scheduler.add(each)
    outputs = run(scheduler)
    assert {key: ids(value) for key, value in outputs.items()} == expected
    assert len({tuple(answer[:8]) for answer in expected.values()}) == len(expected)


def test_a_picture_prefilled_between_decoding_rows_is_not_disturbed(internvl: Path) -> None:
    engine = load(internvl, slots=4)
    part, data = picture(4, (28, 56))
    scheduler, outputs, expected = Scheduler(engine), dict[str, list[Output]](), {}
    wanted: tuple[tuple[list[str | ImagePart], int], ...] = (
        (["a"], 40),
        (["b"], 10),
        (["c"], 40),
        ([part, "and", part, "The lazy dog " * 5, part], 9),
    )
    for number, (parts, max_tokens) in enumerate(wanted):
        asked = request(str(number), *parts, max_tokens=max_tokens)
        sequence = engine.prepare(asked, {part.sha256: data})
        expected[str(number)] = generate(internvl, sequence)
        scheduler.add(sequence)
    between = 0
    while scheduler.has_work:
        collect(scheduler.step(), outputs)
        between += sequence.cached > 0 and not sequence.is_decoding
    assert between >= 3
    assert {key: ids(value) for key, value in outputs.items()} == expected


def test_cancelling_frees_the_slot_and_leaves_the_other_answers_alone(llama: Path) -> None:
    engine = load(llama)
    scheduler, outputs, expected = Scheduler(engine), dict[str, list[Output]](), {}
    for name in ("first", "second", "third", "fourth"):
        sequence = engine.prepare(request(name, f"The {name} fox", max_tokens=25), {})
        expected[name] = generate(llama, sequence)
        scheduler.add(sequence)
    for _ in range(12):
        collect(scheduler.step(), outputs)
    assert (scheduler.running, scheduler.waiting) == (3, 1)
    assert scheduler.cancel("first")
    assert scheduler.running == 2
    while scheduler.has_work:
        collect(scheduler.step(), outputs)
    assert outputs["first"][-1].finish_reason == "cancelled"
    cancelled = ids(outputs.pop("first"))
    assert cancelled == expected.pop("first")[: len(cancelled)]
    assert {key: ids(value) for key, value in outputs.items()} == expected


def test_a_resumed_answer_goes_on_exactly_where_it_stopped(internvl: Path) -> None:
    engine = load(internvl)
    part, data = picture(3, (50, 50))
    asked = request("r", part, "What is it?", max_tokens=20)
    scheduler = Scheduler(engine)
    scheduler.add(engine.prepare(asked, {part.sha256: data}))
    whole = run(scheduler)["r"]
    for cut in (1, 7, 19):
        published = whole[:cut]
        scheduler.add(engine.prepare(asked, {part.sha256: data}, tuple(ids(published))))
        rest = run(scheduler)["r"]
        assert ids(published) + ids(rest) == ids(whole)
        assert text(published) + text(rest) == text(whole)
        assert rest[-1].usage is not None
        assert whole[-1].usage is not None
        assert replace(rest[-1].usage, cached_tokens=0) == whole[-1].usage


def test_sampled_answers_do_not_depend_on_what_runs_beside_them(llama: Path) -> None:
    engine = load(llama)
    scheduler = Scheduler(engine)
    hot = {"temperature": 1.0, "top_p": 0.9, "seed": 7, "max_tokens": 15}
    scheduler.add(engine.prepare(request("alone", "Pack my box", **hot), {}))
    alone = ids(run(scheduler)["alone"])
    for name, seed in (("other", 8), ("same", 7), ("again", 7)):
        scheduler.add(engine.prepare(request(name, "Pack my box", **{**hot, "seed": seed}), {}))
    outputs = run(scheduler)
    assert ids(outputs["same"]) == ids(outputs["again"]) == alone
    assert ids(outputs["other"]) != alone


def test_a_picture_is_encoded_once_for_all_requests_that_show_it(internvl: Path) -> None:
    engine = load(internvl)
    encoded = []
    tower = engine.runner._model.get_submodule("model.vision_tower")
    tower.register_forward_hook(lambda *call: encoded.append(call))
    part, data = picture(1, (20, 20))
    scheduler = Scheduler(engine)
    for name in ("a", "b"):
        scheduler.add(engine.prepare(request(name, part, max_tokens=2), {part.sha256: data}))
    run(scheduler)
    assert len(encoded) == 1


def test_a_model_that_computes_nan_fails_its_request_and_spoils_no_other(
    llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load(llama, chunk_tokens=100)
    model = engine.runner._model
    poison = engine.prepare(request("bad", "poison " * 5, max_tokens=9), {})
    spoil = model.get_input_embeddings().register_forward_hook(lambda *call: call[2] * torch.nan)
    scheduler = Scheduler(engine)
    scheduler.add(poison)
    error = run(scheduler)["bad"][-1].error
    spoil.remove()
    assert error is not None
    assert error.code == "worker_failed"
    short = engine.prepare(request("short", "Hi", max_tokens=9), {})
    long = engine.prepare(request("long", "The quick brown fox " * 3, max_tokens=9), {})
    for sequence in (short, long):
        scheduler.add(sequence)
    caplog.clear()
    outputs = run(scheduler)
    assert not caplog.records
    assert ids(outputs["short"]) == generate(llama, short)
    assert ids(outputs["long"]) == generate(llama, long)


def test_requests_can_be_prepared_in_threads_while_others_decode(internvl: Path) -> None:
    engine = load(internvl)
    part, data = picture(5, (40, 40))
    wanted = [request(str(n), part, f"What is {n}?", max_tokens=10) for n in range(24)]
    alone = [engine.prepare(each, {part.sha256: data}).prompt_ids for each in wanted]
    scheduler = Scheduler(engine)
    outputs: dict[str, list[Output]] = {}
    with ThreadPoolExecutor(4) as pool:
        for sequence in pool.map(lambda each: engine.prepare(each, {part.sha256: data}), wanted):
            assert sequence.prompt_ids == alone[int(sequence.request_id)]
            scheduler.add(sequence)
            collect(scheduler.step(), outputs)
    while scheduler.has_work:
        collect(scheduler.step(), outputs)
    assert all(answer[-1].finish_reason for answer in outputs.values())
    assert len(outputs) == len(wanted)


def circle(colour: str) -> tuple[ImagePart, bytes]:
    """A drawn circle."""
    image = Image.new("RGB", (112, 112), "white")
    ImageDraw.Draw(image).ellipse((30, 30, 80, 80), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    return ImagePart(sha256=hashlib.sha256(data).hexdigest()), data


def test_the_demo_model_sees_each_requests_own_picture(demo: Path) -> None:
    engine = load(demo, dtype="float32", slots=4, chunk_tokens=40)
    (red, red_data), (blue, blue_data) = circle("red"), circle("blue")
    images = {red.sha256: red_data, blue.sha256: blue_data}
    scheduler, sequences = Scheduler(engine), []
    for name, part in (("red", red), ("blue", blue), ("red again", red)):
        asked = request(name, part, "What is in the picture?", max_tokens=20)
        sequences.append(engine.prepare(asked, images))
    sequences.append(engine.prepare(request("text", "Who are you?", max_tokens=20), {}))
    for sequence in sequences:
        scheduler.add(sequence)
    outputs = run(scheduler)
    assert "red circle" in text(outputs["red"])
    assert "blue circle" in text(outputs["blue"])
    assert text(outputs["red again"]) == text(outputs["red"])
    for sequence in sequences:
        assert ids(outputs[sequence.request_id]) == generate(demo, sequence)
