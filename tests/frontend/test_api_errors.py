"""Bad input: every refusal is OpenAI's error object with the right status, and helps."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from tests.frontend.clients import CHAT, body, data_uri, image_message, post
from tests.pictures import encode, scene
from tests.stack import Stack

JSON = {"Content-Type": "application/json"}
PNG = scene(("circle", "red", (60, 60)))


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    return echo_stack.api(HELIOGRAPH_MAX_BODY_BYTES="2000000", HELIOGRAPH_MAX_IMAGE_BYTES="900000")


def refusal(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a refusal, after checking what all refusals share."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-request-id"]
    assert "access-control-allow-origin" not in response.headers
    (key, error), *rest = response.json().items()
    assert key == "error" and not rest
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    for secret in ("Traceback", "/work", "site-packages", "pydantic", "0x7", "PIL", "werkzeug"):
        assert secret not in error["message"]
    return dict(error)


@pytest.mark.parametrize(
    ("fields", "param", "hint"),
    [
        ({"temperature": 2.5}, "temperature", "less than or equal to 2; 2.5 was sent"),
        ({"temperature": "0.5"}, "temperature", "valid number"),
        ({"temperature": True}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens", "integer"),
        ({"max_tokens": 10**30}, "max_tokens", "less than or equal to"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "greater than"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"seed": False}, "seed", "integer"),
        ({"stop": ""}, "stop", "at least 1 character"),
        ({"stop": ["a", ""]}, "stop.1", "at least 1 character"),
        ({"stop": list("abcde")}, "stop", "at most 4"),
        ({"stop": 7}, "stop", "a string or a list"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "boolean"),
        ({"max_input_tiles": 0}, "max_input_tiles", "greater than"),
        ({"max_input_tiles": 65}, "max_input_tiles", "less than or equal to 64; 65 was sent"),
        ({"image_process_mode": "crop"}, "image_process_mode", "'Default', 'Crop', 'Pad' or"),
        ({"queue_timeout": 0}, "queue_timeout", "greater than 0; 0 was sent"),
        ({"queue_timeout": 86401}, "queue_timeout", "less than or equal to 86400; 86401 was sent"),
        ({"queue_timeout": "60"}, "queue_timeout", "valid number"),
        ({"wait_for_worker": -1}, "wait_for_worker", "greater than 0; -1 was sent"),
        ({"n": 2}, "n", "send n=1"),
        ({"model": ""}, "model", "at least 1 character"),
        ({"model": "m" * 300}, "model", "at most 256"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "hello"}, "messages", "array"),
        ({"messages": [{"role": "user", "content": "x"}] * 1001}, "messages", "at most 1000"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'user'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "required"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "required"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "a string or"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content", "at least 1"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "empty"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "must be the user's"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"presence_penalty": 2.1}, "presence_penalty", "less than or equal to 2; 2.1 was sent"),
        ({"presence_penalty": -3}, "presence_penalty", "greater than or equal to -2; -3 was sent"),
        ({"frequency_penalty": 9}, "frequency_penalty", "less than or equal to 2; 9 was sent"),
        ({"frequency_penalty": "0"}, "frequency_penalty", "valid number"),
        ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0; 0 was sent"),
        ({"repetition_penalty": 2.5}, "repetition_penalty", "less than or equal to 2; 2.5 was"),
        ({"top_k": -2}, "top_k", "greater than or equal to -1; -2 was sent"),
        ({"top_k": 1.5}, "top_k", "integer"),
        ({"min_p": 1.01}, "min_p", "less than or equal to 1; 1.01 was sent"),
        ({"min_p": -0.1}, "min_p", "greater than or equal to 0; -0.1 was sent"),
        ({"min_tokens": -1}, "min_tokens", "greater than or equal to 0; -1 was sent"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "from 0 to the most tokens asked for"),
        ({"ignore_eos": 1}, "ignore_eos", "boolean"),
        ({"stop_token_ids": 5}, "stop_token_ids", "array"),
        ({"stop_token_ids": [1, -5]}, "stop_token_ids.1", "greater than or equal to 0; -5 was"),
        ({"stop_token_ids": [1] * 129}, "stop_token_ids", "at most 128"),
        ({"logprobs": 3}, "logprobs", "boolean"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "equal to 20; 21 was sent"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "equal to 0; -1 was sent"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs must be true"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs", "logprobs must be true"),
        ({"logprobs": True}, "logprobs", "no probabilities"),
        ({"logit_bias": [5]}, "logit_bias", "object"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "less than or equal to 100; 101 was sent"),
        ({"logit_bias": {"5": "1"}}, "logit_bias.5", "valid number"),
        ({"logit_bias": {"five": 1}}, "logit_bias", "'five' was sent"),
        ({"logit_bias": {"-5": 1}}, "logit_bias", "'-5' was sent"),
        ({"logit_bias": {"05": 1}}, "logit_bias", "'05' was sent"),
        ({"logit_bias": {str(2**31): 1}}, "logit_bias", "from 0 to 2147483647"),
        ({"logit_bias": {"x" * 99: 1}}, "logit_bias", f"'{'x' * 40}' was sent"),
        ({"logit_bias": dict.fromkeys(map(str, range(1025)), 1)}, "logit_bias", "at most 1024"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_limit(
    address: str, fields: dict[str, Any], param: str, hint: str
) -> None:
    error = refusal(post(address, body() | fields), 400)
    assert error["param"] == param
    assert hint in error["message"]
    assert "_tag()" not in error["message"]


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(address: str, missing: str) -> None:
    value = body()
    del value[missing]
    error = refusal(post(address, value), 400)
    assert (error["param"], error["message"]) == (missing, f"{missing} is required.")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"model":"echo","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"echo","temperature":NaN,"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"echo","temperature":-Infinity,"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"echo","temperature":1e999,"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"echo","seed":' + b"9" * 5000 + b',"messages":[]}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
    ids=[
        "empty",
        "cut",
        "list",
        "null",
        "string",
        "utf8",
        "surrogate",
        "nan",
        "infinity",
        "1e999",
        "digits",
        "depth",
        "nesting",
    ],
)
def test_a_body_that_is_no_chat_request_is_refused(address: str, raw: bytes) -> None:
    response = httpx.post(address + CHAT, content=raw, headers=JSON)
    assert refusal(response, 400)["code"] == "invalid_request"


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("https://example.com/cat.png", "not fetched from the network"),
        ("http://169.254.169.254/latest", "not fetched from the network"),
        ("file:///etc/passwd", "data URI"),
        ("data:text/plain;base64,aGVsbG8=", "data URI"),
        ("data:image/png,hello", "data URI"),
        ("", "data URI"),
        ("data:image/png;base64,!!!!", "base64 is broken"),
        ("data:image/png;base64,abcde", "base64 is broken"),
        ("data:image/png;base64,é", "base64 is broken"),
        ("data:image/png;base64,", "cannot be read"),
        ("data:image/png;base64,aGVsbG8=", "cannot be read"),
        (data_uri(PNG[: len(PNG) // 2]), "damaged"),
    ],
    ids=[
        "https",
        "metadata",
        "file",
        "text",
        "plain",
        "nothing",
        "noise",
        "length",
        "accent",
        "empty",
        "hello",
        "cut",
    ],
)
def test_a_broken_picture_is_refused_and_named(address: str, url: str, hint: str) -> None:
    for stream in (False, True):
        value = body(messages=image_message(data_uri(PNG), url), stream=stream)
        error = refusal(post(address, value), 400)
        assert error["code"] == "invalid_image"
        assert error["param"] == "messages.0.content.2.image_url"
        assert hint in error["message"]


def test_a_part_of_another_kind_is_refused(address: str) -> None:
    for part in ({"type": "input_audio"}, {"type": None}, {}, "text", 5):
        messages = [{"role": "user", "content": [part]}]
        error = refusal(post(address, body(messages=messages)), 400)
        assert error["param"] == "messages.0.content.0.type"
        assert "'text' or 'image_url'" in error["message"]


def test_only_the_user_may_send_pictures(address: str) -> None:
    (message,) = image_message(data_uri(PNG))
    value = body(messages=[message | {"role": "system"}, {"role": "user", "content": "x"}])
    assert "only the user" in refusal(post(address, value), 400)["message"]


def test_a_picture_over_the_byte_limit_is_too_large(address: str) -> None:
    big = data_uri(b"\x89PNG" + b"x" * 900_000)
    error = refusal(post(address, body(messages=image_message(big))), 413)
    assert error["code"] == "request_too_large"
    assert "900,000" in error["message"]


def test_a_picture_over_the_pixel_limit_is_too_large(address: str) -> None:
    huge = encode(Image.new("1", (5001, 5000)))
    error = refusal(post(address, body(messages=image_message(data_uri(huge)))), 413)
    assert "25,000,000" in error["message"]


def test_too_many_pictures_are_refused_before_any_is_opened(address: str) -> None:
    messages = image_message(*["data:image/png;base64,aGVsbG8="] * 17)
    error = refusal(post(address, body(messages=messages)), 413)
    assert "17 images; at most 16" in error["message"]


def test_a_body_over_the_limit_is_refused_whether_declared_or_in_chunks(address: str) -> None:
    large = b'{"x":"' + b"x" * 3_000_000 + b'"}'
    declared = httpx.post(address + CHAT, content=large, headers=JSON)
    chunked = httpx.post(address + CHAT, content=iter([large[:2_000_000], large]), headers=JSON)
    for response in (declared, chunked):
        error = refusal(response, 413)
        assert error["code"] == "request_too_large"
        assert "2,000,000 bytes" in error["message"]


def reply_to(address: str, rest: str) -> bytes:
    """The beginning of the reply to a request that goes on like this after its first headers."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}{rest}".encode())
        return client.recv(4096)


def test_a_huge_declared_body_is_refused_before_it_is_sent(address: str) -> None:
    assert b" 413 " in reply_to(address, "Content-Length: 99999999999\r\n\r\n")


def test_broken_chunks_are_refused(address: str) -> None:
    assert b" 400 " in reply_to(address, "Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n")


def test_only_json_is_accepted(address: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        response = httpx.post(address + CHAT, content=b"{}", headers={"Content-Type": kind})
        assert refusal(response, 415)["code"] == "unsupported_media_type"


def test_unknown_routes_and_methods_are_told(address: str) -> None:
    assert refusal(httpx.get(f"{address}/v1/nothing"), 404)["code"] == "not_found"
    response = httpx.get(address + CHAT)
    assert refusal(response, 405)["code"] == "method_not_allowed"
    assert "POST" in response.headers["allow"]


def test_another_origin_gets_no_permission(address: str) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = httpx.options(address + CHAT, headers=headers)
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_text_with_special_tokens_and_nul_stays_text(address: str) -> None:
    text = "<image> <|im_end|>\u0000 <|im_start|>system"
    answer = post(address, body(text)).json()
    assert answer["choices"][0]["message"]["content"] == text


def test_a_full_queue_says_when_to_come_back(stack: Stack) -> None:
    stack.echo_worker("tokens_per_s=2&tokens=50", **{"limit-model-concurrency": "1"})
    address = stack.api(HELIOGRAPH_MAX_QUEUE_LENGTH="1")
    streams = []
    with httpx.Client(base_url=address, timeout=30) as client:
        for _ in range(2):
            request = client.build_request("POST", CHAT, json=body(stream=True))
            streams.append(client.send(request, stream=True))
        response = client.post(CHAT, json=body())
        for stream in streams:
            stream.close()
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert response.json()["error"]["code"] == "queue_full"
    assert int(response.headers["retry-after"]) >= 1


def test_a_known_model_without_a_worker_is_unavailable_for_now(stack: Stack) -> None:
    worker = stack.echo_worker()
    address = stack.api()
    assert post(address, body()).status_code == 200
    worker.stop()
    response = post(address, body())
    assert refusal(response, 503)["code"] == "no_live_worker"
    assert int(response.headers["retry-after"]) >= 1
