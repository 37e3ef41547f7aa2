"""What the payloads of LLaVA, InternVL and FastChat ask for."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import InvalidRequest
from broker.messages import SamplingParams
from frontend.api.payload import read_payload
from frontend.api.payload_content import plain_marks
from tests.frontend.originals import fastchat, internvl, llava, vicuna

PROMPT = vicuna("hello")


def sampling(**fields: Any) -> SamplingParams:
    return read_payload({"model": "m", "prompt": "p"} | fields).sampling


def test_each_payload_is_known_by_its_form() -> None:
    assert read_payload(llava("m", PROMPT)).form == "llava"
    assert read_payload(llava("m", PROMPT, max_input_tiles=12, org_images=[])).form == "llava"
    assert read_payload(internvl("m", "hello")).form == "internvl"
    assert read_payload(fastchat("m", PROMPT)).form == "fastchat"
    arena = {"prompt": PROMPT, "repetition_penalty": 1.0, "stop": None, "stop_token_ids": None}
    assert read_payload({"model": "m", **arena, "echo": False}).form == "fastchat"


@pytest.mark.parametrize(
    ("payload", "echoed"),
    [
        (llava("m", PROMPT), PROMPT),
        (internvl("m", "hello"), ""),
        (fastchat("m", PROMPT), ""),
        (fastchat("m", PROMPT, echo=True), PROMPT),
        ({"model": "m", "prompt": PROMPT, "top_k": 5}, PROMPT),
    ],
)
def test_only_a_string_is_echoed_unless_the_client_forbids_it(
    payload: dict[str, Any], echoed: str
) -> None:
    assert read_payload(payload).echoed == echoed


def test_why_it_ended_is_told_to_fastchat_and_to_cells() -> None:
    assert read_payload(fastchat("m", PROMPT)).tells_outcome
    assert read_payload(internvl("m", "hello", heliograph_path=["a1"])).tells_outcome
    assert not read_payload(llava("m", PROMPT)).tells_outcome
    assert not read_payload(internvl("m", "hello")).tells_outcome


def test_a_path_is_a_list_or_as_the_header_has_it() -> None:
    for path in (["a1", "b2"], "a1, b2"):
        assert read_payload(llava("m", PROMPT, heliograph_path=path)).heliograph_path == [
            "a1",
            "b2",
        ]


def test_what_llava_leaves_out_has_its_workers_defaults() -> None:
    assert sampling() == SamplingParams(max_tokens=256, temperature=1.0, top_p=1.0)
    nothing = dict.fromkeys(("temperature", "top_p", "max_new_tokens", "stop", "images", "top_k"))
    assert sampling(**nothing) == sampling()


def test_every_parameter_reaches_the_sampling() -> None:
    asked = sampling(
        temperature=0.5, top_p=0.7, top_k=40, max_new_tokens=9, max_input_tiles=12,
        repetition_penalty=1.1, presence_penalty=-1, frequency_penalty=2, seed=7,
        stop=["</s>", "", "USER:"], stop_token_ids=[2, 3],
    )  # fmt: skip
    assert asked == SamplingParams(
        max_tokens=9, temperature=0.5, top_p=0.7, top_k=40, max_input_tiles=12,
        repetition_penalty=1.1, presence_penalty=-1, frequency_penalty=2, seed=7,
        stop=("</s>", "USER:"), stop_token_ids=(2, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "temperature", "top_p"),
    [
        ({"temperature": 0}, 0.0, 1.0),
        ({"temperature": 0.0009, "top_p": 0.5}, 0.0, 1.0),
        ({"temperature": 0.001, "top_p": 0.5}, 0.001, 0.5),
        ({"temperature": 0.9, "top_p": 0}, 0.0, 1.0),
        ({"top_p": 0.0}, 0.0, 1.0),
    ],
)
def test_a_tiny_temperature_or_no_top_p_is_greedy(
    asked: dict[str, float], temperature: float, top_p: float
) -> None:
    params = sampling(**asked)
    assert (params.temperature, params.top_p) == (temperature, top_p)


def test_a_stop_is_one_text_or_several() -> None:
    assert sampling(stop="###").stop == ("###",)
    assert sampling(stop="").stop == ()
    assert sampling(top_k=-1).top_k == 0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ""}, "model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [{"role": "tool", "content": ""}]}, "prompt.0.role"),
        ({"prompt": [{"role": "user", "content": 5}]}, "prompt.0.content"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "0.2"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"images": "abc"}, "images"),
        ({"stop": 5}, "stop"),
        ({"logprobs": 1}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"heliograph_path": ["a\r\nX-Evil: 1"]}, "heliograph_path.0"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_payload(llava("m", PROMPT) | change)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("a <image> b", "a <image> b"),
        ("$$<image>$$ what?", "<image> what?"),
        ("$$<image>$$$$<image>$$what?", "<image><image>what?"),
        ("$$<image>$$<image>\nwhat?", "<image>\nwhat?"),
        ("$$<image>$$$$<image>$$<image>\n<image>\nwhat?", "<image>\n<image>\nwhat?"),
        ("$$<image>$$<image>\n<image>\nwhat?", "<image><image>\n<image>\nwhat?"),
    ],
)
def test_fastchats_marks_are_one_for_each_picture(written: str, plain: str) -> None:
    assert plain_marks(written) == plain
