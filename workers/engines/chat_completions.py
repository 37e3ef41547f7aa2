"""Speaks OpenAI's /v1/chat/completions as a client: reads a server's stream into pieces.

Owns how the server's errors are understood; which server it is, and when it may be asked again, is
for others.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2

from broker import cell
from broker.errors import ErrorBody, RemoteError, UpstreamFailed
from broker.events import FinishReason, Likely, TokenLogprob, Usage
from broker.messages import GenerateRequest
from workers.engines.base import Piece, UpstreamBusy
from workers.engines.chat_body import request_body
from workers.reply import parse

MAX_LINE = 4 * 2**20
"""Bytes of one event; a server that sends more at a time is not one that we know."""
MAX_REFUSAL = 2**16
"""Bytes that are read of a refusal."""
_MAX_COUNT = 2**31


async def stream_chat(
    client: httpx2.AsyncClient,
    base_url: str,
    model: str,
    request: GenerateRequest,
    images: Mapping[str, bytes],
) -> AsyncGenerator[Piece]:
    """Ask a server for an answer and yield it; closing the generator closes the connection.

    Args:
        client: has the timeouts and the headers that the server wants.
        base_url: up to and with `/v1`.
        model: the server's name for the model.
        request: sampling and messages; its path goes along in a header.
        images: bytes of its pictures by SHA-256.

    Raises:
        UpstreamBusy, UpstreamFailed, HeliographError: see `Upstream.stream`.
    """
    body = request_body(model, request, images)
    headers = {cell.HEADER: cell.write_path(request.path)}
    try:
        async with client.stream(
            "POST", f"{base_url}/chat/completions", json=body, headers=headers
        ) as response:
            if response.status_code != 200:
                raise _refusal(response, await _beginning(response))
            async for piece in _pieces(response):
                yield piece
    except httpx2.HTTPError as error:
        raise UpstreamFailed(f"The upstream broke off: {_reason(error)}.") from error


async def _beginning(response: httpx2.Response) -> bytes:
    body = b""
    async for part in response.aiter_bytes():
        body += part
        if len(body) >= MAX_REFUSAL:
            break
    return body[:MAX_REFUSAL]


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _pieces(response: httpx2.Response) -> AsyncGenerator[Piece]:
    """Read server-sent events up to the end; one piece is held back, since the usage comes last."""
    counted = 0
    last: Piece | None = None
    async for event in _events(response):
        if (error := event.get("error")) is not None:
            raise _told(error, 502)
        usage = _usage(event.get("usage"))
        piece = _piece(event)
        counted += piece.tokens
        if piece.finish_reason is not None:
            last = piece
        elif piece.tokens:
            yield piece
        if last is not None and usage is not None:
            yield _ended(last, usage, counted)
            return
    if last is None:
        raise UpstreamFailed("The upstream broke off: its answer has no end.")
    yield last


def _ended(last: Piece, usage: Usage, counted: int) -> Piece:
    missing = max(0, usage.completion_tokens - counted)
    return Piece(last.text, last.tokens + missing, last.logprobs, last.finish_reason, usage)


async def _events(response: httpx2.Response) -> AsyncGenerator[dict[str, Any]]:
    """The objects of a stream, up to `[DONE]`."""
    held = b""
    async for data in response.aiter_bytes():
        *lines, held = (held + data).split(b"\n")
        if len(held) > MAX_LINE:
            raise UpstreamFailed(f"The upstream sent over {MAX_LINE:,} bytes without a line's end.")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            payload = line[5:].strip()
            if payload == b"[DONE]":
                return
            yield _object(payload)


def _object(payload: bytes) -> dict[str, Any]:
    try:
        event = parse(payload)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise UpstreamFailed("The upstream sent an event that is no JSON object.")
    return event


def _piece(event: dict[str, Any]) -> Piece:
    try:
        choices = event.get("choices") or ()
        if not choices:
            return Piece()
        choice = choices[0]
        text = choice.get("delta", {}).get("content") or ""
        logprobs = _logprobs((choice.get("logprobs") or {}).get("content") or ())
        reason = _finish_reason(choice.get("finish_reason"))
        if not isinstance(text, str):
            raise TypeError("content is no text")
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UpstreamFailed("The upstream sent an event of another form.") from error
    return Piece(text, len(logprobs) or int(bool(text)), logprobs, reason)


def _finish_reason(told: str | None) -> FinishReason | None:
    if told == "abort":
        raise UpstreamFailed("The upstream gave the answer up.")
    if told is None:
        return None
    return "length" if told == "length" else "stop"


def _logprobs(rows: Any) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            _token(row),
            _logprob(row),
            tuple(Likely(_token(each), _logprob(each)) for each in row.get("top_logprobs") or ()),
        )
        for row in rows
    )


def _token(row: dict[str, Any]) -> bytes:
    told = row.get("bytes")
    return bytes(told) if isinstance(told, list) else str(row["token"]).encode()


def _logprob(row: dict[str, Any]) -> float:
    value = float(row["logprob"])
    if not math.isfinite(value):
        raise ValueError("a log-probability is no number")
    return value


def _usage(told: Any) -> Usage | None:
    if not isinstance(told, dict):
        return None
    details = told.get("prompt_tokens_details") or {}
    try:
        return Usage(
            _count(told["prompt_tokens"]),
            _count(told.get("completion_tokens")),
            _count(details.get("cached_tokens")),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return None


def _count(told: Any) -> int:
    count = int(told or 0)
    if not 0 <= count < _MAX_COUNT:
        raise ValueError(f"{count} is no number of tokens")
    return count


def _refusal(response: httpx2.Response, body: bytes) -> Exception:
    """Understand a status that is not 200: whose fault it is, and whether to ask again."""
    status = response.status_code
    if status in (301, 302, 303, 307, 308):
        return UpstreamFailed("The upstream answers with a redirect, which is not followed.")
    if status in (401, 403):
        return UpstreamFailed(f"The upstream refuses this worker's API key (HTTP {status}).")
    if status in (429, 503):
        return UpstreamBusy(
            f"The upstream has no room (HTTP {status}): {_message_of(body)}", _retry_after(response)
        )
    if (400 <= status < 500 and status not in (404, 408)) or status == 508:
        return _told(_error_of(body), status)
    return UpstreamFailed(f"The upstream answered HTTP {status}: {_message_of(body)}")


def _told(error: Any, status: int) -> RemoteError:
    """An error that the server told in so many words, as its client is told it here."""
    fields = error if isinstance(error, dict) else {"message": error}
    kind = str(fields.get("type") or "")
    if kind == "invalid_request_error" and status >= 500 and status != 508:
        status = 400
    return RemoteError(
        ErrorBody(
            status,
            kind or ("invalid_request_error" if status < 500 else "server_error"),
            str(fields.get("code") or "upstream_error"),
            str(fields.get("message") or f"The upstream answered HTTP {status}.")[:2000],
            str(param) if (param := fields.get("param")) else None,
        )
    )


def _error_of(body: bytes) -> Any:
    """The error object of a body: nested as OpenAI has it, or flat as older servers do."""
    try:
        told = parse(body)
    except ValueError:
        return body[:500].decode(errors="replace")
    if not isinstance(told, dict):
        return str(told)
    return told.get("error") or told.get("detail") or told


def _message_of(body: bytes) -> str:
    return _told(_error_of(body), 502).message


def _retry_after(response: httpx2.Response) -> float:
    try:
        return min(30.0, max(0.1, float(response.headers["Retry-After"])))
    except (KeyError, ValueError):
        return 1.0
