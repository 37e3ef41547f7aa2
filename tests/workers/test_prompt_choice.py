"""Which template a loaded checkpoint is asked with, and how its answers end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from broker.settings import Settings
from tests.workers import checkpoints
from tests.workers.reference import generate, ids, load, picture, request, run, text
from workers.__main__ import parse_flags
from workers.engines.local import LocalEngine
from workers.scheduler import Scheduler

VICUNA = "answers to the user's questions. USER: Hi ASSISTANT:"


def asked(engine: LocalEngine) -> str:
    """What the engine gives the model for "Hi", as text."""
    sequence = engine.prepare(request("r", "Hi", max_tokens=1), {})
    tokenizer = checkpoints.byte_level_tokenizer()
    return str(tokenizer.decode(sequence.prompt_ids))


def copied(source: Path, folder: Path, **config: str) -> Path:
    """A checkpoint without its chat template, and with changes to its config.json."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("chat_template*"))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def test_a_checkpoints_own_template_comes_before_its_name(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "vicuna-7b"))
    assert asked(load(folder)) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_checkpoint_without_template_is_asked_by_its_name(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path / "vicuna-7b-v1.5")
    assert asked(load(folder)).endswith(VICUNA)
    served_as = load(folder, model_name="llava-v1.6-mistral-7b")
    assert asked(served_as) == "[INST] Hi [/INST]"
    unknown_name = load(folder, model_name="my-model")
    assert asked(unknown_name).endswith(VICUNA)


def test_a_name_that_says_nothing_is_asked_in_plain_lines(llama: Path, tmp_path: Path) -> None:
    assert asked(load(copied(llama, tmp_path / "base-7b"))) == "User: Hi\nAssistant:"


def test_a_template_that_the_config_names_comes_before_the_name(
    llama: Path, tmp_path: Path
) -> None:
    folder = copied(llama, tmp_path / "vicuna-7b", template="phi3-chat")
    assert asked(load(folder)).endswith("<|user|>\nHi<|end|><|assistant|>\n")


def test_the_flag_comes_before_everything(llama: Path) -> None:
    engine = load(llama, conv_template="vicuna_v1")
    assert asked(engine).endswith(VICUNA)
    with pytest.raises(ConfigurationError, match=r"no conversation template 'x'; there are: "):
        load(llama, conv_template="x")


def test_the_worker_refuses_an_unknown_template_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert parse_flags(Settings(), ["--conv-template", "llava_v1"]).conv_template == "llava_v1"
    assert parse_flags(Settings(), []).conv_template == "auto"
    with pytest.raises(SystemExit):
        parse_flags(Settings(), ["--conv-template", "llava"])
    shown = capsys.readouterr().err
    assert "--conv-template" in shown and "llava_v1" in shown


def test_a_vision_checkpoint_without_template_sees_its_pictures(
    models: Path, tmp_path: Path
) -> None:
    folder = copied(checkpoints.save_llava(models / "llava-named"), tmp_path / "llava-v1.5-7b")
    part, data = picture(3, (40, 30))
    engine = load(folder, context_length=256)
    scheduler = Scheduler(engine)
    asking = request("r", "What is it?", part, max_tokens=12)
    sequence = engine.prepare(asking, {part.sha256: data})
    scheduler.add(sequence)
    answer = ids(run(scheduler)["r"])
    assert len(sequence.payload.spans) == 1  # type: ignore[attr-defined]
    assert answer == generate(folder, sequence)


def test_an_answer_ends_at_the_templates_stop_text(llama: Path) -> None:
    engine = load(llama, conv_template="llava_v0")
    mark = checkpoints.byte_level_tokenizer().convert_tokens_to_ids("#")
    scheduler = Scheduler(engine)
    bias = {mark: 100.0}
    scheduler.add(engine.prepare(request("r", "Hi", max_tokens=9, logit_bias=bias), {}))
    outputs = run(scheduler)["r"]
    assert ids(outputs) == [mark] * 3
    assert text(outputs) == ""
    assert outputs[-1].finish_reason == "stop"
