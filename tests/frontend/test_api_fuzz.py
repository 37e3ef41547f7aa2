"""Whatever a app sends, it is the app's fault or it is answered: never a 5xx."""

from __future__ import annotations

import json
from typing import Any

from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.frontend.clients import CHAT, body, data_uri
from tests.pictures import scene

FEW = settings(max_examples=300, suppress_health_check=list(HealthCheck))
PICTURE = scene(("circle", "red", (30, 30)), size=64)
FIELDS = [
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens",
    "temperature", "top_p", "seed", "stop", "n", "max_input_tiles", "tools", "response_format",
    "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "top_k", "min_p", "stop_token_ids", "min_tokens", "user",
    "image_process_mode",
]  # fmt: skip

texts = st.text(max_size=20)
numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 2, -1, 2**31, 2**63, 10**400, 1e308])
scalars = st.none() | st.booleans() | numbers | texts
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
urls = texts | st.sampled_from(["http://x/y.png", "data:,", "data:image/png;base64,"])
cut_pictures = st.integers(0, len(PICTURE)).map(lambda end: data_uri(PICTURE[:end]))
flipped_pictures = st.tuples(st.integers(0, len(PICTURE) - 1), st.integers(1, 255)).map(
    lambda flip: data_uri(
        PICTURE[: flip[0]] + bytes([PICTURE[flip[0]] ^ flip[1]]) + PICTURE[flip[0] + 1 :]
    )
)
parts = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "image_url", "video"]) | anything,
        "text": texts | anything,
        "image_url": st.fixed_dictionaries({"url": urls | cut_pictures | flipped_pictures})
        | anything,
    },
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]) | anything,
        "content": texts | st.lists(parts, max_size=3) | anything,
        "tool_calls": anything,
    },
)
requests = st.fixed_dictionaries(
    {"model": st.just("echo") | anything, "messages": st.lists(messages, max_size=3) | anything},
    optional=dict.fromkeys(FIELDS[2:], anything),
)


def send(app: FlaskClient, raw: bytes) -> None:
    response = app.post(CHAT, data=raw, content_type="application/json")
    content = response.get_data()
    assert response.status_code in (200, 400, 404, 413), (response.status_code, content)
    if response.status_code != 200:
        assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
    elif response.mimetype == "text/event-stream":
        assert content.endswith(b"data: [DONE]\n\n")
        assert b'"server_error"' not in content
    else:
        assert json.loads(content)["choices"][0]["message"]["role"] == "assistant"


@FEW
@given(value=anything)
def test_any_json_is_answered_or_refused(app: FlaskClient, value: Any) -> None:
    send(app, json.dumps(value).encode())


@FEW
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_refused(app: FlaskClient, raw: bytes) -> None:
    send(app, raw)


@FEW
@given(value=requests)
def test_anything_like_a_request_is_answered_or_refused(app: FlaskClient, value: Any) -> None:
    send(app, json.dumps(value).encode())


@FEW
@given(name=st.sampled_from(FIELDS), value=anything)
def test_one_odd_field_is_answered_or_refused(app: FlaskClient, name: str, value: Any) -> None:
    send(app, json.dumps(body() | {name: value}).encode())


@FEW
@given(content=st.lists(parts, min_size=1, max_size=4))
def test_odd_parts_are_answered_or_refused(app: FlaskClient, content: Any) -> None:
    send(app, json.dumps(body(messages=[{"role": "user", "content": content}])).encode())
