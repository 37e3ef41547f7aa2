"""A tab of the chat page without a browser: what Gradio's own client sends, over plain HTTP."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from frontend.ui.language import label


@dataclass(frozen=True, slots=True)
class Told:
    """One message of the server: when it came, how many bytes, and the outputs as they are then."""

    at_s: float
    size: int
    outputs: list[Any]
    is_last: bool


class GradioTab:
    """One tab; a browser's cookie with it."""

    def __init__(self, address: str) -> None:
        """Ask nothing yet; use as a context manager."""
        self._client = httpx.AsyncClient(base_url=address, timeout=120)
        self._session = uuid.uuid4().hex
        self._events: dict[str, Any] = {}
        self._parts: dict[int, Any] = {}

    async def __aenter__(self) -> GradioTab:
        """Load the page, as far as this needs it."""
        (await self._client.get("/")).raise_for_status()
        config = (await self._client.get("/config")).json()
        self._events = {each["api_name"]: each for each in config["dependencies"]}
        self._parts = {each["id"]: each for each in config["components"]}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def settle_as_another(self) -> None:
        """Be another tab, and have its buttons set, as at the end of each answer."""
        self._session = uuid.uuid4().hex
        async for _ in self._call("settle", {}):
            pass

    async def ask(
        self, text: str, *, model: str, max_tokens: int, files: Sequence[str] = ()
    ) -> AsyncIterator[Told]:
        """Send a message; give what is told of its answer. Chat and line are the outputs."""
        named = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in files]
        values = {
            label("Message"): {"text": text, "files": named},
            label("Model"): model,
            label("Max output tokens"): max_tokens,
        }
        sent = [told async for told in self._call("send", values)][-1]
        bookmark = self._events["stream"]["inputs"][0]
        place = self._events["send"]["outputs"].index(bookmark)
        async for told in self._call("stream", {bookmark: sent.outputs[place]}):
            yield told

    async def _call(self, name: str, values: dict[Any, Any]) -> AsyncIterator[Told]:
        event = self._events[name]
        inputs = [self._value(part, values) for part in event["inputs"]]
        body = {"data": inputs, "fn_index": event["id"], "session_hash": self._session}
        joined = await self._client.post("/gradio_api/queue/join", json=body)
        joined.raise_for_status()
        outputs: list[Any] = []
        route, query = "/gradio_api/queue/data", {"session_hash": self._session}
        async with self._client.stream("GET", route, params=query) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line.removeprefix("data:"))
                kind = message["msg"]
                if kind in ("process_generating", "process_completed"):
                    assert message["success"], message
                    data = message["output"]["data"]
                    if kind == "process_generating" and outputs:
                        outputs = [changed(*pair) for pair in zip(outputs, data, strict=True)]
                    elif data:
                        outputs = data
                    is_last = kind == "process_completed"
                    yield Told(time.time(), len(line) + 2, outputs, is_last)
                    if is_last:
                        return

    def _value(self, part: int, values: dict[Any, Any]) -> Any:
        props = self._parts[part]["props"]
        return values.get(part, values.get(props.get("label"), props.get("value")))


def changed(value: Any, edits: list[tuple[str, list[Any], Any]]) -> Any:
    """An output with the edits of a message made."""
    root = [value]
    for action, path, new in edits:
        *way, last = [0, *path]
        holder: Any = root
        for step in way:
            holder = holder[step]
        if action == "append":
            holder[last] += new
        elif action == "delete":
            del holder[last]
        elif action == "add" and isinstance(holder, list):
            holder.insert(last, new)
        else:
            holder[last] = new
    return root[0]


def answer_of(chat: list[dict[str, Any]]) -> str:
    """The words of the last answer of a chat box."""
    return str(chat[-1]["content"][0]["text"]) if chat[-1]["role"] == "assistant" else ""
