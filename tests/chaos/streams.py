"""Answers streamed by the API, read as a browser reads them: the text of each event id.

Knows the wire only; what a test wants of the events is for `cases` to count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from broker.events import Delta, EventId
from tests.frontend.clients import Connection, body


def streamed(address: str, text: str, **fields: Any) -> Iterator[Delta | None]:
    """Ask for an answer and yield its text as it comes, None for each comment.

    What an event has is one word for each token. The stream has come to its end when this has.

    Raises:
        AssertionError: the request is refused, or the stream ends in an error or without an end.
    """
    with Connection(address) as client:
        client.send(body(text, stream=True, **fields))
        assert (status := next(client.lines())) == "HTTP/1.1 200 OK", status
        mark, reason = "", None
        for line in client.lines_until_done():
            if line.startswith("id: "):
                mark = line.removeprefix("id: ")
            elif line.startswith(": "):
                yield None
            elif line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, line
                reason = chunk["choices"][0]["finish_reason"]
                if piece := chunk["choices"][0]["delta"].get("content"):
                    yield Delta(EventId.parse(mark), piece, (0,) * len(piece.split()))
        assert reason == "stop", f"the stream broke off after {mark}"
