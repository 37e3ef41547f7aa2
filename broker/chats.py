"""The stores of chats and battles: who owns which, what a link shows, what two writers may do.

Each change is one transaction that checks the version it was made from: of two writers the later
one is told, and nothing is lost. What a record holds is `conversation`'s and `side_by_side`'s to
know. An answer stays in its job's log until the record has taken it in, so it is not lost when
nobody looks.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import redis
from redis.client import Pipeline
from redis.exceptions import OutOfMemoryError, ReadOnlyError, WatchError

from broker import images, keys
from broker.channel import read_log
from broker.connection import redis_errors
from broker.conversation import Chat, Kept, Kind
from broker.errors import ChatChanged, ChatNotFound, ChatTooLarge
from broker.side_by_side import Battle

K = TypeVar("K", bound=Kept)

MAX_CHATS: Final = 200
"""Most chats of one owner, and most battles."""

MAX_BYTES: Final = 2 * 2**20
"""Most bytes of a record that may be asked on; its pictures are not counted, its last answer may
exceed it."""

_KEEP: Final = "keep_s"
"""Field of a job: how long its log is kept after its end."""

_TRIES: Final = 20

_KEY: Final[dict[Kind, Callable[[str], str]]] = {"chat": keys.chat, "battle": keys.battle}
_LIST: Final[dict[Kind, Callable[[str], str]]] = {"chat": keys.chats, "battle": keys.battles}


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as its owner's list shows it; the time is in Unix seconds."""

    id: str
    title: str
    changed_s: float


class Store(Generic[K]):
    """Reads and writes records of a kind. Every method raises RedisUnavailable when it has to."""

    _record: type[K]

    def __init__(self, client: redis.Redis) -> None:
        """Use a client that does not retry: a change repeated would seem to be another's."""
        self._client = client

    @redis_errors()
    def read(self, owner: str, record_id: str) -> K:
        """Read a record, with what has come of the last answers since.

        Raises:
            ChatNotFound: it was deleted, has expired, or is somebody else's.
        """
        record = self._read(record_id)
        if record is None or not secrets.compare_digest(record.owner, owner):
            raise ChatNotFound(
                f"This {self._record.kind} is not here (any more): it was deleted, has expired, or "
                "belongs to another browser. Begin a new one."
            )
        return self._catch_up(record)

    @redis_errors()
    def version(self, record_id: str) -> int:
        """How often a record was changed; 0 if it is not here."""
        raw: Any = self._client.hget(_KEY[self._record.kind](record_id), "version")
        return int(raw or 0)

    @redis_errors()
    def entries(self, owner: str) -> list[Entry]:
        """List an owner's records, the last changed first."""
        kind = self._record.kind
        raw: Any = self._client.zrevrange(_LIST[kind](owner), 0, -1, withscores=True)
        pipe = self._client.pipeline(transaction=False)
        for record_id, _ in raw:
            pipe.hget(_KEY[kind](record_id.decode()), "title")
        return [
            Entry(record_id.decode(), title.decode(), changed_s)
            for (record_id, changed_s), title in zip(raw, pipe.execute(), strict=True)
            if title is not None
        ]

    @redis_errors()
    def change(self, owner: str, record_id: str, how: Callable[[K], K]) -> K:
        """Change a record in a way that goes with whatever others change; return what is kept.

        What leaves it as it is makes no new version: tabs that show it have missed nothing.

        Raises:
            ChatNotFound: see `read`.
            ChatChanged: others never stop changing it.
        """
        for _ in range(_TRIES):
            record = self.read(owner, record_id)
            changed = how(record)
            if changed == record:
                return record
            try:
                return self._save(changed)
            except ChatChanged:
                continue
        raise ChatChanged(self._record.kind)

    @redis_errors()
    def save(self, record: K) -> K:
        """Keep a record that was asked on, and return it with its new version.

        Raises:
            ChatChanged: it has changed since it was read.
            ChatNotFound: it was deleted since.
            ChatTooLarge: it has grown over `MAX_BYTES`, or its owner has too many.
        """
        with self._client.pipeline() as pipe:
            check(pipe, record)
            pipe.multi()
            return _execute(pipe, write(pipe, record))

    @redis_errors()
    def delete(self, record: K) -> None:
        """Forget a record and its link; its pictures go when nothing has renewed them."""
        pipe = self._client.pipeline()
        pipe.delete(_KEY[record.kind](record.id), keys.share(record.share))
        pipe.zrem(_LIST[record.kind](record.owner), record.id)
        for answer in record.running:
            pipe.hdel(keys.job(answer.job), _KEEP)
        for turn in (turn for chat in record.conversations for turn in chat.turns):
            if turn.answer:
                pipe.delete(keys.drawings(turn.answer.job))
        pipe.execute()

    def _read(self, record_id: str) -> K | None:
        raw: Any = self._client.hmget(_KEY[self._record.kind](record_id), "record", "version")
        record, version = raw
        if record is None:
            return None
        read = self._record.model_validate_json(record)
        return read.model_copy(update={"version": int(version)})

    def _catch_up(self, record: K) -> K:
        """Take in what the last answers' jobs have told; it is kept once all have ended."""
        for _ in range(_TRIES):
            if not record.running:
                return record
            record = record.with_each(self._listen)
            if record.running:
                return record
            try:
                return self._save(record)
            except ChatChanged:
                record = self._read(record.id) or record
            except (OutOfMemoryError, ReadOnlyError):
                return record  # the log keeps it
        return record

    def _listen(self, chat: Chat) -> Chat:
        if (answer := chat.under_way) is None:
            return chat
        return chat.with_last(answer.tell(read_log(self._client, answer.job)))

    def _save(self, record: K) -> K:
        with self._client.pipeline() as pipe:
            _check_version(pipe, record)
            pipe.multi()
            return _execute(pipe, write(pipe, record))


class Chats(Store[Chat]):
    """Conversations with one model, which may be shown by a link."""

    _record = Chat

    @redis_errors()
    def shared(self, token: str) -> Chat:
        """Read the chat that a link shows.

        Raises:
            ChatNotFound: the link was revoked, or the chat is gone.
        """
        raw: Any = self._client.get(keys.share(token))
        chat = self._read(raw.decode()) if raw else None
        if chat is None or not secrets.compare_digest(chat.share, token):
            raise ChatNotFound(
                "This link shows no chat (any more): ask whoever sent it for another one."
            )
        return self._catch_up(chat)


class Battles(Store[Battle]):
    """Conversations with two models, side by side."""

    _record = Battle


def check(pipe: Pipeline, record: Kept) -> None:
    """Watch a record on `pipe` until its transaction, in which `write` may come; see `save`."""
    _check_version(pipe, record)
    kind, owned = record.kind, _LIST[record.kind](record.owner)
    if len(record.model_dump_json().encode()) > MAX_BYTES:
        raise ChatTooLarge(
            f"This {kind} is over {MAX_BYTES // 2**20} MiB, which is the limit. Begin a new one."
        )
    if record.version == 0:
        pipe.watch(owned)  # type: ignore[no-untyped-call]
        since_s = time.time() - keys.CHAT_TTL_S
        count: Any = pipe.zcount(owned, since_s, "+inf")
        if count >= MAX_CHATS:
            raise ChatTooLarge(
                f"You have {MAX_CHATS} {kind}s, which is the limit. Delete one that you do not "
                "need any more."
            )


def write(pipe: Pipeline, record: K) -> K:
    """Queue on `pipe` a record that was checked, and return it as it will be kept."""
    kept = record.model_copy(update={"version": record.version + 1, "changed_s": time.time()})
    kept = kept if kept.title else kept.with_title("")
    fields = {
        "record": kept.model_dump_json(),
        "version": kept.version,
        "title": kept.title,
    }
    key, owned = _KEY[kept.kind](kept.id), _LIST[kept.kind](kept.owner)
    pipe.hset(key, mapping=fields)  # type: ignore[arg-type]
    pipe.expire(key, keys.CHAT_TTL_S)
    pipe.zadd(owned, {kept.id: kept.changed_s})
    pipe.zremrangebyscore(owned, "-inf", kept.changed_s - keys.CHAT_TTL_S)
    pipe.expire(owned, keys.CHAT_TTL_S)
    if kept.share:
        pipe.set(keys.share(kept.share), kept.id, ex=keys.CHAT_TTL_S)
    for sha256 in set(kept.images):
        images.keep(pipe, sha256, keys.CHAT_TTL_S)
    for chat in kept.conversations:
        if chat.last and chat.last.has_ended:
            pipe.expire(keys.events(chat.last.job), keys.ENDED_EVENTS_TTL_S, lt=True)
    return kept


def write_sent(pipe: Pipeline, record: Kept, job_id: str) -> None:
    """Queue on `pipe`, which submits the job of an answer, the record; the log waits to be read."""
    write(pipe, record)
    pipe.hset(keys.job(job_id), _KEEP, str(keys.CHAT_TTL_S))


def _check_version(pipe: Pipeline, record: Kept) -> None:
    key = _KEY[record.kind](record.id)
    pipe.watch(key)  # type: ignore[no-untyped-call]
    version: Any = pipe.hget(key, "version")
    if version is None and record.version:
        raise ChatNotFound(f"This {record.kind} was deleted in another tab. Begin a new one.")
    if int(version or 0) != record.version:
        raise ChatChanged(record.kind)


def _execute(pipe: Pipeline, kept: K) -> K:
    try:
        pipe.execute()
    except WatchError:
        raise ChatChanged(kept.kind) from None
    return kept
