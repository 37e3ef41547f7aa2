"""The foreign workers of one model as an `Upstream`: the bridge starts a process with it for each.

Foreign workers are HTTP workers of LLaVA, InternVL and FastChat, and other cells, that registered
with our API (`broker.foreign`). Each is asked how it does, each request goes to one of them, and
one that fails is tried elsewhere. Parts: `fleet` (which), `dialects` (what is sent), `exchange` and
`stream` (what comes back).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from broker import cell, foreign
from broker.addresses import AddressRefused, AllowList
from broker.connection import connect
from broker.errors import InvalidRequest, UpstreamFailed, WorkerFailed
from broker.messages import GenerateRequest
from workers.engines.base import EngineOptions, Loading, Piece, UpstreamBusy
from workers.engines.chat_completions import stream_chat
from workers.engines.foreign import conversations
from workers.engines.foreign.dialects import Dialect, is_ready, takes_pictures, write
from workers.engines.foreign.exchange import Excepted, converse, fit
from workers.engines.foreign.fleet import Fleet, Member
from workers.outbound import ask, open_client
from workers.status import ASK_S, ask_status

SILENCE_S = 60.0
"""Longest silence of a worker; LLaVA's says nothing before the first token, not even a header."""
_PATIENCE_S = 0.5
"""How long a check waits for workers; those that need longer go on beside it."""
_REMEMBERED = 4096


@dataclass(slots=True)
class _Tried:
    """Where a request failed before: at any worker, and with what words by the worker's doing."""

    failed: set[str] = field(default_factory=set)
    excepted: dict[str, str] = field(default_factory=dict)


class ForeignEngine:
    """Foreign workers that compute for this process; an `Upstream`."""

    name = "foreign"
    device = "http"

    def __init__(
        self, options: EngineOptions, progress: Loading, silence_s: float = SILENCE_S
    ) -> None:
        """Connect to nothing yet; `options.slots` is what a worker may run at once."""
        assert options.upstream is not None
        settings = options.upstream.settings
        self._model = options.model_name
        self._max_pixels = options.max_image_pixels
        self._told_length = options.context_length
        self._redis = connect(settings.url)
        self._cell = ""
        self._fleet = Fleet(options.model_name, settings.dispatch_method, options.slots)
        self._client = open_client(AllowList.parse(settings.worker_addresses), silence_s)
        self._tried: OrderedDict[str, _Tried] = OrderedDict()
        self._examinations: dict[Member, asyncio.Task[None]] = {}
        progress(100)

    @property
    def slots(self) -> int:
        """See `Upstream.slots`: the room at all that answer."""
        return sum(member.room for member in self._fleet.healthy)

    @property
    def trouble(self) -> str:
        """See `Upstream.trouble`."""
        return self._fleet.trouble

    @property
    def context_length(self) -> int:
        """The least that a worker tells; only FastChat's do. 0: not known."""
        lengths = [each.context_length for each in self._fleet.healthy if each.context_length]
        return self._told_length or min(lengths, default=0)

    @property
    def images(self) -> bool:
        """Whether a worker takes pictures."""
        return any(takes_pictures(self._model, m.dialects[0]) for m in self._fleet.members)

    async def check(self) -> None:
        """See `Upstream.check`: read who is registered, ask those whose turn it is."""
        with suppress(RedisError):  # without Redis those who are known go on
            if not self._cell:
                self._cell = await asyncio.to_thread(cell.cell_id, self._redis)
            self._fleet.update(await asyncio.to_thread(foreign.workers, self._redis))
        for member in self._fleet.due():
            if member not in self._examinations:
                self._examinations[member] = asyncio.create_task(self._examine(member))
        if self._examinations:
            await asyncio.wait(self._examinations.values(), timeout=_PATIENCE_S)

    async def _examine(self, member: Member) -> None:
        try:
            await self._ask_status(member)
            if not member.asked and not member.cell:
                await self._ask_details(member)
            self._fleet.recovered(member)
        except UpstreamFailed as error:
            self._fleet.failed(member, str(error))
        finally:
            del self._examinations[member]

    async def _ask_status(self, member: Member) -> None:
        status = await ask_status(self._client, member.url)
        if self._model not in status.models:
            raise UpstreamFailed(f"does not serve {self._model} any more")
        if status.cell and status.cell == self._cell:
            raise UpstreamFailed("is this cell itself")
        member.reported = status.queue_length
        member.cell = status.cell
        if status.cell:
            member.dialects = ("heliograph",)
            member.limit = status.slots or member.limit

    async def _ask_details(self, member: Member) -> None:
        """Ask what only FastChat's workers can tell."""
        body = {"model": self._model}
        with suppress(UpstreamFailed):
            url = f"{member.url}/worker_get_conv_template"
            reply, _ = await ask(self._client, url, body, ASK_S)
            member.conversation = conversations.read(reply)
            member.dialects = ("fastchat",)
            with suppress(RedisError):
                await asyncio.to_thread(foreign.tell_fastchat, self._redis, member.address)
            reply, _ = await ask(self._client, f"{member.url}/model_details", body, ASK_S)
            length = reply.get("context_length")
            member.context_length = length if type(length) is int and length > 0 else 0

    async def stream(
        self, request: GenerateRequest, images: Mapping[str, bytes]
    ) -> AsyncGenerator[Piece]:
        """See `Upstream.stream`; called again, it takes another worker if there is one."""
        tried = self._tried.get(request.id) or _Tried()
        async with self._fleet.place(tried.failed, request.path) as member:
            try:
                async with aclosing(self._speak(member, request, images)) as pieces:
                    async for piece in pieces:
                        member.note(piece.tokens)
                        yield piece
            except Excepted as error:
                tried.excepted[member.address] = error.text
                raise self._failed(request, tried, member, error) from error
            except UpstreamBusy:
                raise
            except UpstreamFailed as error:
                self._fleet.failed(member, str(error))
                raise self._failed(request, tried, member, error) from error
        self._tried.pop(request.id, None)

    def _failed(
        self, request: GenerateRequest, tried: _Tried, member: Member, error: UpstreamFailed
    ) -> Exception:
        """Remember where a request failed; say whether it may be tried again."""
        tried.failed.add(member.address)
        self._tried[request.id] = tried
        if len(self._tried) > _REMEMBERED:
            self._tried.popitem(last=False)
        healthy = {each.address for each in self._fleet.healthy}
        if tried.excepted and healthy and healthy <= set(tried.excepted):
            del self._tried[request.id]
            told = next(reversed(tried.excepted.values()))
            return WorkerFailed(
                f"Every worker of model {self._model!r} failed to compute this request. The last "
                f"one said: {told}"
            )
        return UpstreamFailed(f"A worker of model {self._model!r} {error}. Send the request again.")

    async def _speak(
        self, member: Member, request: GenerateRequest, images: Mapping[str, bytes]
    ) -> AsyncGenerator[Piece]:
        """Speak to a worker in its dialect; while that is a guess, in the other if it fails."""
        first, *other = member.dialects
        try:
            async with aclosing(self._speak_in(first, member, request, images)) as pieces:
                async for piece in pieces:
                    member.dialects = (first,)
                    yield piece
            return
        except Excepted as error:
            if not other or len(member.dialects) == 1:
                raise
            member.dialects = (first,)
            failure = error
        try:
            async with aclosing(self._speak_in(other[0], member, request, images)) as pieces:
                async for piece in pieces:
                    member.dialects = (other[0],)
                    yield piece
        except (Excepted, InvalidRequest) as error:
            raise failure from error

    async def _speak_in(
        self,
        dialect: Dialect,
        member: Member,
        request: GenerateRequest,
        images: Mapping[str, bytes],
    ) -> AsyncGenerator[Piece]:
        if dialect == "heliograph" and not is_ready(request.messages):
            async with aclosing(self._speak_to_cell(member, request, images)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        if dialect == "heliograph":
            dialect = "fastchat"  # chat routes take no ready prompts, a cell's worker routes do
        call = await write(dialect, request, images, self._max_pixels, member.conversation)
        if member.context_length:
            limited = request.sampling.max_tokens is not None
            call = await fit(self._client, member.url, call, member.context_length, limited)
        async with aclosing(converse(self._client, member.url, call, request.path)) as pieces:
            async for piece in pieces:
                yield piece

    async def _speak_to_cell(
        self, member: Member, request: GenerateRequest, images: Mapping[str, bytes]
    ) -> AsyncGenerator[Piece]:
        base = f"{member.url}/v1"
        try:
            async with aclosing(
                stream_chat(self._client, base, self._model, request, images)
            ) as pieces:
                async for piece in pieces:
                    yield piece
        except UpstreamBusy:
            raise
        except (UpstreamFailed, AddressRefused) as error:
            raise UpstreamFailed(f"failed as another cell: {error}") from error

    async def close(self) -> None:
        """See `Upstream.close`."""
        for task in self._examinations.values():
            task.cancel()
        await asyncio.gather(*self._examinations.values(), return_exceptions=True)
        await self._client.aclose()
        await asyncio.to_thread(self._redis.close)
