"""Code that comes with a checkpoint is run by someone's express wish only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from broker.messages import ChatMessage, SamplingParams, TextPart
from frontend.service import Service
from tests.asking import answer
from tests.stack import Stack
from tests.workers import checkpoints, originals
from tests.workers.reference import load

CONFIGURATION = """
from pathlib import Path
from transformers import LlamaConfig

Path({marker!r}).write_text("this code was run")


class MoonConfig(LlamaConfig):
    model_type = "moon"
"""
MODELING = """
from transformers import LlamaForCausalLM

from .configuration_moon import MoonConfig


class MoonForCausalLM(LlamaForCausalLM):
    config_class = MoonConfig
"""
AUTO_MAP = {
    "AutoConfig": "configuration_moon.MoonConfig",
    "AutoModelForCausalLM": "modeling_moon.MoonForCausalLM",
}


@pytest.fixture
def moon(tmp_path: Path) -> Path:
    """A Llama that claims to need its own code, which leaves a marker when it is run."""
    folder = checkpoints.save_text_model(tmp_path / "moon", "llama")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "moon", "architectures": ["MoonForCausalLM"], "auto_map": AUTO_MAP}
    (folder / "config.json").write_text(json.dumps(settings))
    marker = str(tmp_path / "marker")
    (folder / "configuration_moon.py").write_text(CONFIGURATION.format(marker=marker))
    (folder / "modeling_moon.py").write_text(MODELING)
    return folder


def test_a_worker_names_the_code_that_it_does_not_run(moon: Path, echo_stack: Stack) -> None:
    worker = echo_stack.start("worker", "workers", "--model-path", str(moon))
    assert worker.wait(60) == 1
    for words in (
        "MoonConfig in configuration_moon.py, MoonForCausalLM in modeling_moon.py",
        "--trust-remote-code is off",
    ):
        assert words in worker.output
    assert "Traceback" not in worker.output
    assert not (moon.parent / "marker").exists()


def test_the_flag_lets_a_worker_run_it(moon: Path, stack: Stack) -> None:
    stack.env["HF_MODULES_CACHE"] = str(stack.folder / "modules")
    stack.worker("--model-path", str(moon), "--trust-remote-code")
    assert (moon.parent / "marker").read_text() == "this code was run"
    service = Service(stack.settings())
    said = [ChatMessage(role="user", content=(TextPart(text="Hello"),))]
    _, end = answer(service, service.submit("moon", said, SamplingParams(max_tokens=3)))
    assert end.usage.completion_tokens == 3
    service.close()


def test_code_of_a_family_that_transformers_knows_is_left_alone(tmp_path: Path) -> None:
    folder = checkpoints.save_text_model(tmp_path / "llama", "llama")
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = {"AutoConfig": "no_such_file.LlamaConfig"}
    (folder / "config.json").write_text(json.dumps(settings))
    assert load(folder).context_length > 0


def test_a_tokenizer_with_code_is_refused_as_well(tmp_path: Path) -> None:
    folder = checkpoints.save_text_model(tmp_path / "llama", "llama")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "MoonTokenizer"
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_moon.MoonTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigurationError, match="cannot load"):
        load(folder)


def test_opengvlabs_own_checkpoints_run_no_code_and_need_no_flag(tmp_path: Path) -> None:
    _, theirs = originals.save_pair(tmp_path, "qwen2")
    marker = tmp_path / "marker"
    for name in ("configuration_internvl_chat", "modeling_internvl_chat"):
        (theirs / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')")
    assert load(theirs).images
    assert not marker.exists()
