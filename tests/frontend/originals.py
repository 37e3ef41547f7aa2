"""The frontends and workers of the original systems, as seen on the wire.

Each function sends what the client of that name sends: the same headers, the same fields in the
same order, pictures as base64 PNG, and reads a stream as `requests` does: split at NUL, empty
chunks skipped.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

STREAM = "/worker_generate_stream"
READ_TIMEOUT_S = 10.0
"""LLaVA's and InternVL's clients wait as long for a header, and for the next byte."""

SENTENCE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


class Reply:
    """Status, headers and body of a reply that was read as a whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def connect(address: str, timeout_s: float = READ_TIMEOUT_S) -> http.client.HTTPConnection:
    parts = urlsplit(address)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)


def _headers(value: Any, agent: str) -> dict[str, str]:
    headers = {"User-Agent": agent, "Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
    headers["Connection"] = "keep-alive"
    return headers | ({} if value is None else {"Content-Type": "application/json"})


def _body(value: Any) -> bytes | None:
    return None if value is None else json.dumps(value).encode()


def post(address: str, route: str, value: Any = None, **headers: str) -> Reply:
    """POST like `requests.post(address + route, json=value)`; without a value there is no body."""
    with closing(connect(address, 30)) as connection:
        sent = _headers(value, "python-requests/2.34.2") | headers
        connection.request("POST", route, _body(value), sent)
        return Reply(connection.getresponse())


def chunks(
    address: str, value: Any, agent: str = "LLaVA Client", timeout_s: float = READ_TIMEOUT_S
) -> Iterator[dict[str, Any]]:
    """Chunks of a stream as they come."""
    with closing(connect(address, timeout_s)) as connection:
        connection.request("POST", STREAM, _body(value), _headers(value, agent))
        response = connection.getresponse()
        assert response.status == 200, response.read()
        # What `requests` would decode by; text could not be split at a byte.
        assert response.headers["Content-Type"] == "application/octet-stream"
        for chunk in _split(response):
            if chunk:
                yield json.loads(chunk.decode())


def _split(response: http.client.HTTPResponse) -> Iterator[bytes]:
    pending = b""
    while data := response.read1(512):
        *whole, pending = (pending + data).split(b"\0")
        yield from whole
    assert pending == b"", "the stream ended within a chunk"


def base64_png(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def llava(model: str, prompt: str, *pictures: bytes, **fields: Any) -> dict[str, Any]:
    """What LLaVA's gradio server sends."""
    return {
        "model": model,
        "prompt": prompt,
        "temperature": 0.2,
        "top_p": 0.7,
        "max_new_tokens": 512,
        "stop": "</s>",
        "images": [base64_png(picture) for picture in pictures],
    } | fields


def vicuna(text: str) -> str:
    """A first question as LLaVA's template vicuna_v1 writes it."""
    return f"{SENTENCE} USER: {text} ASSISTANT:"


def internvl(
    model: str, text: str, *pictures: bytes, system: str = "", **fields: Any
) -> dict[str, Any]:
    """What InternVL's Streamlit app sends."""
    images = [base64_png(picture) for picture in pictures]
    return {
        "model": model,
        "prompt": [
            {"role": "system", "content": system},
            {"role": "user", "content": text, "image": images},
        ],
        "temperature": 0.7,
        "top_p": 0.95,
        "max_new_tokens": 1024,
        "max_input_tiles": 12,
        "repetition_penalty": 1.0,
    } | fields


def fastchat(model: str, prompt: str, **fields: Any) -> dict[str, Any]:
    """What FastChat's OpenAI server sends."""
    return {
        "model": model,
        "prompt": prompt,
        "temperature": 0.7,
        "logprobs": None,
        "top_p": 1.0,
        "top_k": -1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_new_tokens": 100,
        "echo": False,
        "stop_token_ids": None,
        "stop": [],
    } | fields


def registration(address: str, *models: str, **fields: Any) -> dict[str, Any]:
    """What LLaVA's worker says when it starts."""
    status = {"model_names": list(models), "speed": 1, "queue_length": 0}
    return {"worker_name": address, "check_heart_beat": True, "worker_status": status} | fields
