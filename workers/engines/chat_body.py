"""Writes the body of a request to an OpenAI-compatible server.

Fields beyond OpenAI's own (vLLM, SGLang and Heliograph know them) are sent only where they change
something, since stricter servers refuse what they do not know.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from broker.errors import InvalidRequest
from broker.messages import (
    ChatMessage,
    GenerateRequest,
    SamplingParams,
    TextPart,
    VideoPart,
    ready_prompt,
)
from workers.templates import reading

_SIGNATURES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
_PLAIN = {
    "max_tokens",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
}
"""OpenAI's own sampling fields; the others of `SamplingParams` are its servers' additions."""


def request_body(
    model: str, request: GenerateRequest, images: Mapping[str, bytes]
) -> dict[str, Any]:
    """Write the body of a streamed request; a ready prompt is read back into messages.

    Raises:
        InvalidRequest: it is a ready prompt that no known template wrote.
    """
    return {
        "model": model,
        "messages": [_message(message, images) for message in _messages(request)],
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(request.sampling),
    }


def _sampling(params: SamplingParams) -> dict[str, Any]:
    defaults = SamplingParams()
    fields = {
        name: value
        for name in SamplingParams.model_fields
        if (value := getattr(params, name)) != getattr(defaults, name) or name in _PLAIN
    }
    if (top := fields.pop("logprobs", None)) is not None:
        fields |= {"logprobs": True, **({"top_logprobs": top} if top else {})}
    if params.max_tokens is None:
        del fields["max_tokens"]
    if params.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in params.logit_bias.items()}
    return fields


def _messages(request: GenerateRequest) -> tuple[ChatMessage, ...]:
    prompt = ready_prompt(request.messages)
    if prompt is None:
        return request.messages
    found = reading.read(prompt.content)
    if found is None:
        raise InvalidRequest(
            "This model's server takes conversations, and the prompt is in no known template's "
            "form. Send messages with roles.",
            param="prompt",
        )
    return found[1]


def _message(message: ChatMessage, images: Mapping[str, bytes]) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.text}
    parts = [each for part in message.content for each in _parts(part, images)]
    return {"role": message.role, "content": parts}


def _parts(part: Any, images: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    if isinstance(part, TextPart):
        yield {"type": "text", "text": part.text}
    elif isinstance(part, VideoPart):
        for number, sha256 in enumerate(part.frames, 1):
            yield {"type": "text", "text": f"Frame-{number}: "}
            yield _image(images[sha256])
            yield {"type": "text", "text": "\n"}
    else:
        yield _image(images[part.sha256])


def _image(data: bytes) -> dict[str, Any]:
    kind = next((kind for start, kind in _SIGNATURES if data.startswith(start)), "image/png")
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
