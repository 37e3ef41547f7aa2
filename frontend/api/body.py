"""Reads a request's body: JSON only, within its limits, and not for ever.

What the JSON says is left to whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from flask import Request, g
from pydantic_core import from_json

from broker.errors import InvalidRequest, RequestTooLarge
from frontend.api.client import STALL_S, Client
from frontend.api.errors import RequestTimeout, UnsupportedMediaType

MAX_UPLOAD_S = 25.0
MAX_VALUES = 500_000
"""Commas and brackets of a body, together at least as many as its values. To parse so many takes up
to 0.5 s and 90 MB; a body of 30 MB that was full of them took 7 s, in which no stream went on."""
_CHUNK_BYTES = 16 * 1024


def read_json_body(request: Request) -> bytes:
    """The bytes of a JSON body; after a refusal `g.unread` says that more may be on its way.

    Raises:
        UnsupportedMediaType: it is declared to be something else.
        RequestTooLarge: over the application's MAX_CONTENT_LENGTH, declared or in fact, or of more
            than `MAX_VALUES` values.
        RequestTimeout: it took longer than `MAX_UPLOAD_S`, or stalled.
        InvalidRequest: it broke off.
    """
    g.unread = True
    if not request.is_json:
        raise UnsupportedMediaType(
            "The body must be JSON, with the header Content-Type: application/json."
        )
    limit = request.max_content_length or 0
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    body = bytearray()
    with Client(request.environ).deadline(MAX_UPLOAD_S):
        for data in _chunks(request.environ["wsgi.input"]):
            body += data
            if len(body) > limit:
                raise _too_large(limit)
    g.unread = False
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise RequestTooLarge(
            f"The request body has over {MAX_VALUES:,} commas and brackets, which is the limit. "
            "Send fewer values or less text."
        )
    return bytes(body)


def decode(body: bytes) -> Any:
    """The value that the JSON stands for; schemas take it from here.

    A schema that reads bytes itself makes each value twice where a field may have several types:
    once to look which it has.

    Raises:
        InvalidRequest: it is not JSON.
    """
    try:
        return from_json(body)
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    # The server's own stream: it ends with the body, be it chunked or of a declared length.
    while data := _read(source):
        yield data


def _read(source: IO[bytes]) -> bytes:
    try:
        return source.read(_CHUNK_BYTES)
    except TimeoutError:
        raise _too_slow() from None
    except Exception:  # each server has its own for a client that breaks off or sends nonsense
        raise InvalidRequest("The body broke off, or its chunks are malformed.") from None


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request body is over {limit:,} bytes, which is the limit. Send fewer or smaller "
        "images."
    )


def _too_slow() -> RequestTimeout:
    return RequestTimeout(
        f"The request body did not arrive within {MAX_UPLOAD_S:.0f} s, or nothing of it came for "
        f"{STALL_S:.0f} s. Send it faster or smaller."
    )
