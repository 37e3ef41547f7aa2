"""The demo model behind the worker's routes: right only if picture and prompt really arrived."""

from __future__ import annotations

from typing import Any

import pytest

from tests.frontend.clients import data_uri
from tests.frontend.originals import chunks, fastchat, internvl, llava, post, vicuna
from tests.pictures import scene
from tests.stack import Stack

MODEL = "heliograph-demo"
QUESTION = "How many shapes are there?"
THREE = scene(
    ("circle", "red", (60, 60)), ("square", "blue", (160, 60)), ("circle", "green", (110, 160))
)
CHATML = "<|im_start|>user\n<image>\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def address(demo_stack: Stack) -> str:
    return demo_stack.api()


def answer(address: str, payload: dict[str, Any], prompt: str = "") -> str:
    *_, last = chunks(address, payload | {"temperature": 0.0})
    assert last["error_code"] == 0
    text: str = last["text"]
    assert text.startswith(prompt)
    return text[len(prompt) :].strip()


@pytest.fixture(scope="module")
def expected(address: str) -> str:
    """What the model answers by OpenAI's route."""
    content = [
        {"type": "image_url", "image_url": {"url": data_uri(THREE)}},
        {"type": "text", "text": QUESTION},
    ]
    chat = {"model": MODEL, "messages": [{"role": "user", "content": content}], "temperature": 0}
    told: str = post(address, "/v1/chat/completions", chat).json["choices"][0]["message"]["content"]
    assert "three" in told.lower()
    return told


def test_internvls_payload_is_answered_about_its_picture(address: str, expected: str) -> None:
    payload = internvl(MODEL, QUESTION, THREE)
    payload["prompt"][0]["content"] = ""
    assert answer(address, payload) == expected


def test_llavas_prompt_in_the_models_own_template_is_taken_as_it_is(
    address: str, expected: str
) -> None:
    prompt = CHATML.format(QUESTION)
    assert answer(address, llava(MODEL, prompt, THREE, stop="<|im_end|>"), prompt) == expected


def test_llavas_prompt_in_another_template_is_written_anew(address: str, expected: str) -> None:
    prompt = vicuna(f"<image>\n{QUESTION}")
    assert answer(address, llava(MODEL, prompt, THREE), prompt) == expected


def test_fastchats_prompt_with_a_picture_is_answered(address: str, expected: str) -> None:
    conv = post(address, "/worker_get_conv_template", {"model": MODEL}).json["conv"]
    prompt = f"{conv['system_message']} USER: $$<image>$$<image>\n{QUESTION} ASSISTANT:"
    payload = fastchat(MODEL, prompt, images=[data_uri(THREE)])
    assert answer(address, payload) == expected


def test_tokens_are_counted_as_the_model_counts_them(address: str) -> None:
    prompt = "<|im_start|>user\nHow many shapes are there?<|im_end|>\n<|im_start|>assistant\n"
    counted = post(address, "/count_token", {"model": MODEL, "prompt": prompt}).json
    told = post(address, "/worker_generate", fastchat(MODEL, prompt, temperature=0)).json
    assert counted == {"count": told["usage"]["prompt_tokens"], "error_code": 0}
