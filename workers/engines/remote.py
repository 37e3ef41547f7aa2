"""An OpenAI-compatible server as an upstream: vLLM, SGLang, lmdeploy, TGI, another Heliograph.

The worker in front of it takes jobs from the model's queue as any other does, and the server
computes them. Asked each second whether it answers and still has the model; while it does not, no
jobs are taken.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import httpx2

from broker.errors import ConfigurationError, UpstreamFailed
from broker.messages import GenerateRequest
from workers.engines.base import EngineOptions, Loading, Piece
from workers.engines.chat_completions import stream_chat
from workers.reply import parse

DEFAULT_CONTEXT = 0
"""Told where the server does not say how much it holds."""

CONNECT_S = 3.0
SILENCE_S = 120.0
"""Longest silence of a server that computes; a full one may let a request wait for its first."""
MAX_PAUSE_S = 10.0
RECHECK_S = 5.0


class RemoteEngine:
    """An OpenAI-compatible server that computes for this worker; an `Upstream`."""

    name = "remote"
    images = True

    def __init__(self, options: EngineOptions, progress: Loading) -> None:
        """Connect to nothing yet.

        Raises:
            ConfigurationError: there is no upstream, or it is no URL.
        """
        upstream = options.upstream
        assert upstream is not None
        self._base_url = _base_url(upstream.url)
        self._model = upstream.model or options.model_name
        self.device = httpx2.URL(self._base_url).netloc.decode()
        self.slots = options.slots
        self.context_length = options.context_length or DEFAULT_CONTEXT
        self._asks_length = options.context_length is None
        self.trouble = f"{self.device} has not been asked yet"
        self._pause_s = 0.0
        self._next_check_s = 0.0
        key = upstream.settings.upstream_key
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(SILENCE_S, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=options.slots),
            trust_env=False,
        )
        progress(100)

    async def check(self) -> None:
        """See `Upstream.check`; less often while the server answers, or keeps silent."""
        if time.monotonic() < self._next_check_s:
            return
        try:
            reply = await self._client.get(f"{self._base_url}/models", timeout=CONNECT_S)
            self.trouble = self._read_models(reply)
        except httpx2.HTTPError as error:
            self.trouble = f"{self.device} does not answer ({type(error).__name__})"
        self._pause_s = min(MAX_PAUSE_S, 2 * self._pause_s + 0.5) if self.trouble else 0.0
        self._next_check_s = time.monotonic() + (self._pause_s if self.trouble else RECHECK_S)

    def _read_models(self, reply: httpx2.Response) -> str:
        """Find the model in the list; return what is wrong, empty if nothing is."""
        if reply.status_code != 200:
            return f"{self.device} answers HTTP {reply.status_code} when asked for its models"
        try:
            cards: dict[str, dict[str, Any]] = {
                card["id"]: card for card in parse(reply.content)["data"]
            }
        except (ValueError, KeyError, TypeError):
            return f"{self.device} answers something else than a list of models"
        if self._model not in cards:
            served = ", ".join(cards) or "none"
            return f"{self.device} does not serve {self._model!r}; it serves: {served}"
        length = cards[self._model].get("max_model_len")
        if self._asks_length and isinstance(length, int):
            self.context_length = length
        return ""

    async def stream(
        self, request: GenerateRequest, images: Mapping[str, bytes]
    ) -> AsyncGenerator[Piece]:
        """See `Upstream.stream`."""
        try:
            async with aclosing(
                stream_chat(self._client, self._base_url, self._model, request, images)
            ) as pieces:
                async for piece in pieces:
                    yield piece
        except UpstreamFailed:
            self._next_check_s = 0.0
            await self.check()
            raise

    async def close(self) -> None:
        """See `Upstream.close`."""
        await self._client.aclose()


def _base_url(url: str) -> str:
    if not url:
        raise ConfigurationError(
            "--engine remote needs --upstream, the address of an OpenAI-compatible server, such as "
            "http://127.0.0.1:8001."
        )
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"--upstream {url!r} must begin with http:// or https://.")
    base = url.rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"
