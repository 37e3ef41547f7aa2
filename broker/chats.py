"""The store of chats: who owns which, what a link shows, and what two writers at once may do.

Each change is one transaction that checks the version it was made from: of two writers the later
one is told, and nothing is lost. What a chat holds is `conversation`'s to know. An answer stays in
its job's log until the chat has taken it in, so it is not lost when nobody looks.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.client import Pipeline
from redis.exceptions import OutOfMemoryError, ReadOnlyError, WatchError

from broker import images, keys
from broker.channel import read_log
from broker.connection import redis_errors
from broker.conversation import Chat
from broker.errors import ChatChanged, ChatNotFound, ChatTooLarge

MAX_CHATS: Final = 200
"""Most chats of one owner."""

MAX_BYTES: Final = 2 * 2**20
"""Most bytes of a chat that may be asked on; its pictures are not counted, its last answer may
exceed it."""

_KEEP: Final = "keep_s"
"""Field of a job: how long its log is kept after its end."""

_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A chat as its owner's list shows it; the time is in Unix seconds."""

    id: str
    title: str
    changed_s: float


class Chats:
    """Reads and writes chats. All methods raise RedisUnavailable when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        """Use a client that does not retry: a change repeated would seem to be another's."""
        self._client = client

    @redis_errors()
    def read(self, owner: str, chat_id: str) -> Chat:
        """Read a chat, with what has come of the last answer since.

        Raises:
            ChatNotFound: it was deleted, has expired, or is somebody else's.
        """
        chat = self._read(chat_id)
        if chat is None or not secrets.compare_digest(chat.owner, owner):
            raise ChatNotFound(
                "This chat is not here (any more): it was deleted, has expired, or belongs to "
                "another browser. Begin a new one."
            )
        return self._catch_up(chat)

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

    @redis_errors()
    def entries(self, owner: str) -> list[Entry]:
        """List an owner's chats, the last changed first."""
        raw: Any = self._client.zrevrange(keys.chats(owner), 0, -1, withscores=True)
        pipe = self._client.pipeline(transaction=False)
        for chat_id, _ in raw:
            pipe.hget(keys.chat(chat_id.decode()), "title")
        return [
            Entry(chat_id.decode(), title.decode(), changed_s)
            for (chat_id, changed_s), title in zip(raw, pipe.execute(), strict=True)
            if title is not None
        ]

    @redis_errors()
    def change(self, owner: str, chat_id: str, how: Callable[[Chat], Chat]) -> Chat:
        """Change a chat in a way that goes with whatever others change; return what is kept.

        Raises:
            ChatNotFound: see `read`.
            ChatChanged: others never stop changing it.
        """
        for _ in range(_TRIES):
            try:
                return self._save(how(self.read(owner, chat_id)))
            except ChatChanged:
                continue
        raise ChatChanged

    @redis_errors()
    def save(self, chat: Chat) -> Chat:
        """Keep a chat that was asked on, and return it with its new version.

        Raises:
            ChatChanged: it has changed since it was read.
            ChatNotFound: it was deleted since.
            ChatTooLarge: it has grown over `MAX_BYTES`, or its owner has too many.
        """
        with self._client.pipeline() as pipe:
            self.check(pipe, chat)
            pipe.multi()
            kept = write(pipe, chat)
            return _execute(pipe, kept)

    def check(self, pipe: Pipeline, chat: Chat) -> None:
        """Watch a chat on `pipe` until its transaction, in which `write` may come; see `save`."""
        _check_version(pipe, chat)
        if len(chat.model_dump_json().encode()) > MAX_BYTES:
            raise ChatTooLarge(
                f"This chat is over {MAX_BYTES // 2**20} MiB, which is the limit. Begin a new one."
            )
        if chat.version == 0:
            pipe.watch(keys.chats(chat.owner))  # type: ignore[no-untyped-call]
            since_s = time.time() - keys.CHAT_TTL_S
            count: Any = pipe.zcount(keys.chats(chat.owner), since_s, "+inf")
            if count >= MAX_CHATS:
                raise ChatTooLarge(
                    f"You have {MAX_CHATS} chats, which is the limit. Delete one that you do not "
                    "need any more."
                )

    @redis_errors()
    def delete(self, chat: Chat) -> None:
        """Forget a chat and its link; its pictures go when nothing has renewed them."""
        pipe = self._client.pipeline()
        pipe.delete(keys.chat(chat.id), keys.share(chat.share))
        pipe.zrem(keys.chats(chat.owner), chat.id)
        if chat.under_way:
            pipe.hdel(keys.job(chat.under_way.job), _KEEP)
        pipe.execute()

    def _read(self, chat_id: str) -> Chat | None:
        raw: Any = self._client.hmget(keys.chat(chat_id), "record", "version")
        record, version = raw
        if record is None:
            return None
        return Chat.model_validate_json(record).model_copy(update={"version": int(version)})

    def _catch_up(self, chat: Chat) -> Chat:
        """Take in what the last answer's job has told; it is kept once it has ended."""
        for _ in range(_TRIES):
            if (answer := chat.under_way) is None:
                return chat
            chat = chat.with_last(answer.tell(read_log(self._client, answer.job)))
            if chat.under_way:
                return chat
            try:
                return self._save(chat)
            except ChatChanged:
                chat = self._read(chat.id) or chat
            except (OutOfMemoryError, ReadOnlyError):
                return chat  # the log keeps it
        return chat

    def _save(self, chat: Chat) -> Chat:
        with self._client.pipeline() as pipe:
            _check_version(pipe, chat)
            pipe.multi()
            return _execute(pipe, write(pipe, chat))


def write(pipe: Pipeline, chat: Chat) -> Chat:
    """Queue on `pipe` a chat that was checked, and return it as it will be kept."""
    kept = chat.model_copy(update={"version": chat.version + 1, "changed_s": time.time()})
    kept = kept if kept.title else kept.with_title("")
    record = {
        "record": kept.model_dump_json(),
        "version": kept.version,
        "title": kept.title,
    }
    pipe.hset(keys.chat(kept.id), mapping=record)  # type: ignore[arg-type]
    pipe.expire(keys.chat(kept.id), keys.CHAT_TTL_S)
    pipe.zadd(keys.chats(kept.owner), {kept.id: kept.changed_s})
    pipe.zremrangebyscore(keys.chats(kept.owner), "-inf", kept.changed_s - keys.CHAT_TTL_S)
    pipe.expire(keys.chats(kept.owner), keys.CHAT_TTL_S)
    if kept.share:
        pipe.set(keys.share(kept.share), kept.id, ex=keys.CHAT_TTL_S)
    for sha256 in set(kept.images):
        images.keep(pipe, sha256, keys.CHAT_TTL_S)
    if kept.last and kept.last.has_ended:
        pipe.expire(keys.events(kept.last.job), keys.ENDED_EVENTS_TTL_S, lt=True)
    return kept


def write_sent(pipe: Pipeline, chat: Chat) -> None:
    """Queue on `pipe`, which submits the last answer's job, the chat; its log waits to be read."""
    write(pipe, chat)
    if chat.under_way:
        pipe.hset(keys.job(chat.under_way.job), _KEEP, str(keys.CHAT_TTL_S))


def _check_version(pipe: Pipeline, chat: Chat) -> None:
    pipe.watch(keys.chat(chat.id))  # type: ignore[no-untyped-call]
    version: Any = pipe.hget(keys.chat(chat.id), "version")
    if version is None and chat.version:
        raise ChatNotFound("This chat was deleted in another tab. Begin a new one.")
    if int(version or 0) != chat.version:
        raise ChatChanged


def _execute(pipe: Pipeline, kept: Chat) -> Chat:
    try:
        pipe.execute()
    except WatchError:
        raise ChatChanged from None
    return kept
