"""The foreign workers of one model: who they are, how they do, and which gets the next request.

A worker that failed is left alone until it answers again. None is sent more than its limit, counted
here and by what it reports itself, since others may send it requests too. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from broker.dispatch import Candidate, choose
from broker.errors import LoopDetected, UpstreamFailed
from broker.foreign import ForeignWorker
from workers.engines.foreign.conversations import Conversation
from workers.engines.foreign.dialects import Dialect, guess

log = logging.getLogger(__name__)

RECHECK_S = 5.0
MAX_PAUSE_S = 10.0
ROOM_S = 20.0
"""How long a request waits for others to leave room, before it goes back to its queue."""
_SPEED_MEMORY_S = 20.0
"""Seconds of work after which a speed is mostly forgotten."""


@dataclass(eq=False, slots=True)
class Member:
    """One foreign worker, as its record and its own answers tell it.

    `dialects` has one, or two while it is not sure which; `reported` is the queue length that it
    told last, less the requests of ours that ended since. `cell` is set for another Heliograph.
    """

    record: ForeignWorker
    dialects: tuple[Dialect, ...]
    limit: int
    trouble: str = "has not been asked yet"
    asked: bool = False
    cell: str = ""
    conversation: Conversation | None = None
    context_length: int = 0
    running: int = 0
    reported: int = 0
    speed: float = 0.0
    next_check_s: float = 0.0
    pause_s: float = 0.0
    _tokens: int = 0
    _busy_s: float = 0.0
    _since_s: float = field(default=0.0)

    @property
    def address(self) -> str:
        """What it is known by: its URL as it registered."""
        return self.record.address

    @property
    def url(self) -> str:
        """Where its routes begin."""
        return self.record.address.rstrip("/")

    @property
    def load(self) -> int:
        """Requests that wait or run there, as far as is known."""
        return max(self.running, self.reported)

    @property
    def room(self) -> int:
        """Requests of ours that it may run at once: its limit less what others have there."""
        return max(0, self.limit - (self.load - self.running))

    def begin(self) -> None:
        """Count a request in."""
        if not self.running:
            self._since_s = time.monotonic()
        self.running += 1

    def end(self) -> None:
        """Count a request out."""
        self.running -= 1
        self.reported = max(0, self.reported - 1)
        self._measure(time.monotonic())

    def note(self, tokens: int) -> None:
        """Take note of tokens that came from it."""
        self._tokens += tokens

    def measure(self) -> None:
        """Bring `speed` up to date: tokens a second over the time in which it had work."""
        if self.running:
            self._measure(time.monotonic())

    def _measure(self, now_s: float) -> None:
        self._busy_s += now_s - self._since_s
        self._since_s = now_s
        if not self._tokens or self._busy_s < 0.05:
            return
        keep = math.exp(-self._busy_s / _SPEED_MEMORY_S) if self.speed else 0.0
        self.speed = keep * self.speed + (1 - keep) * self._tokens / self._busy_s
        self._tokens, self._busy_s = 0, 0.0


class Fleet:
    """The live workers of one model; used on one event loop."""

    def __init__(self, model: str, method: str, limit: int) -> None:
        """Choose by a method of `broker.dispatch`; `limit` holds for each that tells no other."""
        self._model = model
        self._method = method
        self._limit = limit
        self._members: dict[str, Member] = {}
        self._is_known = False
        self._changed = asyncio.Event()

    @property
    def members(self) -> list[Member]:
        """All that are registered."""
        return list(self._members.values())

    @property
    def healthy(self) -> list[Member]:
        """Those that answer."""
        return [member for member in self._members.values() if not member.trouble]

    @property
    def trouble(self) -> str:
        """Why none can be sent a request; empty when one can."""
        if self.healthy:
            return ""
        if not self._is_known:
            return f"the foreign workers of {self._model} are not known yet"
        if not self._members:
            return f"no foreign worker of {self._model} is registered"
        return "; ".join(f"{each.address} {each.trouble}" for each in self._members.values())

    def update(self, records: Iterable[ForeignWorker]) -> None:
        """Take over what is registered now; one that registered anew is a new one."""
        self._is_known = True
        found = {record.address: record for record in records if self._model in record.models}
        for address in set(self._members) - set(found):
            del self._members[address]
        for address, record in found.items():
            member = self._members.get(address)
            if member is None or member.record.registered_s != record.registered_s:
                self._members[address] = self._new(record)
                continue
            if record.queue_length != member.record.queue_length:
                member.reported = record.queue_length
            member.record = record
            member.measure()
        self.wake()

    def _new(self, record: ForeignWorker) -> Member:
        first = guess(self._model, record.fastchat)
        others: dict[Dialect, Dialect] = {"llava": "internvl", "internvl": "llava"}
        dialects = (first, others[first]) if first in others else (first,)
        return Member(record, dialects, self._limit, reported=record.queue_length)

    def due(self) -> list[Member]:
        """Those to be asked how they do: unknown, failed, or not asked for a while."""
        now_s = time.monotonic()
        return [each for each in self._members.values() if now_s >= each.next_check_s]

    def recovered(self, member: Member) -> None:
        """Take note that a worker answers."""
        if member.trouble and member.asked:
            log.info("%s answers again", member.address)
        member.trouble, member.asked, member.pause_s = "", True, 0.0
        # What it reports must be fresh where it alone keeps requests from being sent.
        full = member.load >= member.limit > member.running
        member.next_check_s = time.monotonic() + (0.0 if full else RECHECK_S)
        self.wake()

    def failed(self, member: Member, reason: str) -> None:
        """Take note that a worker failed; it is asked again after a pause that grows."""
        if member.trouble != reason:
            log.warning("%s %s", member.address, reason)
        member.trouble, member.asked = reason, True
        member.pause_s = min(MAX_PAUSE_S, 2 * member.pause_s or 1.0)
        member.next_check_s = time.monotonic() + member.pause_s
        self.wake()

    def wake(self) -> None:
        """Let those who wait for a worker look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def place(self, avoid: Collection[str], path: tuple[str, ...]) -> AsyncIterator[Member]:
        """Wait for a worker that is below its limit, and count a request there.

        Args:
            avoid: addresses that are taken only if there is no other.
            path: cells that the request came through; none of them gets it again.

        Raises:
            UpstreamFailed: no worker answers, or others leave no room for long.
            LoopDetected: all that answer are cells on the path.
        """
        member = await self._await_room(avoid, path)
        member.begin()
        try:
            yield member
        finally:
            member.end()
            self.wake()

    async def _await_room(self, avoid: Collection[str], path: tuple[str, ...]) -> Member:
        since_s = time.monotonic()
        while (member := self._pick(avoid, path)) is None:
            if any(each.running for each in self.healthy):
                since_s = time.monotonic()  # one of ours will end
            elif time.monotonic() - since_s > ROOM_S:
                raise UpstreamFailed(
                    f"No worker of model {self._model!r} had room within {ROOM_S:.0f} s. Try again "
                    "later."
                )
            await self._changed.wait()
        return member

    def _pick(self, avoid: Collection[str], path: tuple[str, ...]) -> Member | None:
        healthy = self.healthy
        if not healthy:
            raise UpstreamFailed(f"No worker of model {self._model!r} answers. Try again later.")
        off_path = [member for member in healthy if member.cell not in path]
        if not off_path:
            raise LoopDetected(
                f"The request has come through all cells that serve {self._model!r}: they are "
                "connected in a circle. Take one of them out of the other's workers."
            )
        wanted = [member for member in off_path if member.address not in avoid] or off_path
        free = {member.address: member for member in wanted if member.load < member.limit}
        if not free:
            return None
        candidates = [Candidate(each.address, each.load, each.speed) for each in free.values()]
        return free[choose(candidates, self._method).name]
