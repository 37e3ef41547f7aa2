"""Whatever is sent to the worker's routes: one last chunk or a refusal, and never a 5xx."""

from __future__ import annotations

import base64
import json
from typing import Any

from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.frontend.originals import STREAM
from tests.frontend.test_api_fuzz import PICTURE, anything, scalars, texts

FEW = settings(max_examples=200, suppress_health_check=list(HealthCheck))
FIELDS = [
    "model", "prompt", "images", "temperature", "top_p", "top_k", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "seed", "max_new_tokens", "max_input_tiles", "stop",
    "stop_token_ids", "echo", "logprobs", "best_of", "use_beam_search", "heliograph_path",
]  # fmt: skip

pictures = st.integers(0, len(PICTURE)).map(lambda end: base64.b64encode(PICTURE[:end]).decode())
images = st.lists(texts | pictures, max_size=3)
marked = st.lists(
    st.sampled_from(["<image>", "$$<image>$$", "<image>\n", "USER: ", " ASSISTANT:", "hi", "\0"]),
    max_size=6,
).map("".join)
turns = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system"]) | anything,
        "content": marked | anything,
        "image": images | anything,
    },
)
payloads = st.fixed_dictionaries(
    {"model": st.just("echo"), "prompt": marked | st.lists(turns, max_size=3) | anything},
    optional={"images": images} | dict.fromkeys(FIELDS[3:], scalars),
)


def send(app: FlaskClient, raw: bytes, route: str = STREAM) -> None:
    response = app.post(route, data=raw, content_type="application/json")
    content = response.get_data()
    if response.status_code != 200:
        assert response.status_code in (400, 413), (response.status_code, content)
        assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
        return
    whole = content.split(b"\0") if route == STREAM else [content, b""]
    assert whole.pop() == b""
    *before, last = [json.loads(chunk) for chunk in whole if chunk]
    assert [chunk["error_code"] for chunk in before] == [0] * len(before)
    assert last["error_code"] in (0, 1, 2), last


@FEW
@given(value=anything)
def test_any_json_has_one_outcome(app: FlaskClient, value: Any) -> None:
    send(app, json.dumps(value).encode())


@FEW
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_refused(app: FlaskClient, raw: bytes) -> None:
    send(app, raw)


@FEW
@given(value=payloads, route=st.sampled_from([STREAM, "/worker_generate"]))
def test_anything_like_a_payload_has_one_outcome(app: FlaskClient, value: Any, route: str) -> None:
    send(app, json.dumps(value).encode(), route)


@FEW
@given(name=st.sampled_from(FIELDS), value=anything)
def test_one_odd_field_has_one_outcome(app: FlaskClient, name: str, value: Any) -> None:
    send(app, json.dumps({"model": "echo", "prompt": "one two", name: value}).encode())


@FEW
@given(
    route=st.sampled_from(
        ["/register_worker", "/receive_heart_beat", "/withdraw_worker", "/get_worker_address",
         "/count_token", "/model_details"]
    ),
    value=st.fixed_dictionaries(
        {},
        optional={
            "worker_name": st.sampled_from(["http://127.0.0.1:1", "http://[::1"]) | anything,
            "check_heart_beat": st.booleans() | anything,
            "worker_status": anything,
            "queue_length": st.integers() | anything,
            "multimodal": anything,
            "model": st.just("echo") | anything,
            "prompt": anything,
        },
    ),
)  # fmt: skip
def test_the_controllers_routes_answer_or_refuse(app: FlaskClient, route: str, value: Any) -> None:
    response = app.post(route, json=value)
    assert response.status_code in (200, 400, 403), (response.status_code, response.text)
