"""Chats on both servers: two writers, owners, limits, lifetimes, answers that nobody awaited."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from broker import cancellation, channel, chats, conversation, images, keys, queues
from broker.chats import Chats
from broker.conversation import Chat, new_chat
from broker.errors import ChatChanged, ChatNotFound, ChatTooLarge, InvalidRequest, WorkerFailed
from broker.events import Delta, EventId, Failed
from broker.messages import GenerateRequest
from tests.broker import jobs
from tests.broker.jobs import claim, end, make_job

SHA = "ab" * 32
MONTH = range(keys.CHAT_TTL_S - 60, keys.CHAT_TTL_S + 1)


@pytest.fixture
def store(once: redis.Redis) -> Chats:
    return Chats(once)


@pytest.fixture
def send(store: Chats, once: redis.Redis) -> Callable[[Chat], Chat]:
    """Submits the job that answers a chat; gives the chat as it is kept."""
    return lambda chat: jobs.send(once, store, f"model-{chat.owner}", chat.messages, chat.send)


def answer(client: redis.Redis, job_id: str, *words: str) -> None:
    """Answer a job as a worker does; it does not end yet."""
    claimed = claim(client, job_id, "worker-7")
    for n, word in enumerate(words, 1):
        channel.append(client, [(job_id, Delta(EventId(claimed.attempt, n), word, (n,)))])


def job_of(chat: Chat) -> str:
    assert chat.last is not None
    return chat.last.job


def ttl(client: redis.Redis, key: str) -> int:
    return int(client.ttl(key))  # type: ignore[arg-type]


def test_a_chat_is_read_back_as_it_was_kept(store: Chats, owner: str) -> None:
    kept = store.save(new_chat(owner).ask("What is this?", (SHA,)))
    assert kept.version == 1 and kept.title == "What is this?"
    assert store.read(owner, kept.id) == kept
    assert [(each.id, each.title) for each in store.entries(owner)] == [(kept.id, kept.title)]


def test_only_its_owner_finds_a_chat(store: Chats, owner: str) -> None:
    kept = store.save(new_chat(owner).ask("Mine"))
    for stranger, chat_id in (("somebody", kept.id), (owner, "unknown"), ("", "")):
        with pytest.raises(ChatNotFound, match="belongs to another browser"):
            store.read(stranger, chat_id)
    assert store.entries("somebody") == []


def test_of_two_writers_the_later_one_is_told_and_nothing_is_lost(store: Chats, owner: str) -> None:
    first = store.save(new_chat(owner).ask("One"))
    store.save(first.ask("Two"))
    with pytest.raises(ChatChanged, match="another tab"):
        store.save(first.ask("Three"))
    assert store.read(owner, first.id).turns[0].question.text == "One\n\nTwo"


def test_of_many_writers_at_once_exactly_one_wins(store: Chats, owner: str) -> None:
    kept = store.save(new_chat(owner).ask("Start"))

    def write(n: int) -> bool:
        try:
            store.save(kept.ask(f"writer {n}"))
        except ChatChanged:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(16)))
    assert won.count(True) == 1
    text = store.read(owner, kept.id).turns[0].question.text
    assert text == f"Start\n\nwriter {won.index(True)}"


def test_changes_that_go_together_are_all_kept(store: Chats, owner: str) -> None:
    kept = store.save(new_chat(owner).ask("Start"))

    def rename(n: int) -> None:
        store.change(owner, kept.id, lambda chat: chat.with_title(f"{chat.title}{n}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(rename, range(8)))
    chat = store.read(owner, kept.id)
    assert chat.version == 9
    assert sorted(chat.title.removeprefix("Start")) == list("01234567")


def test_a_job_is_not_submitted_for_a_chat_that_was_changed(
    store: Chats, owner: str, send: Callable[[Chat], Chat], client: redis.Redis
) -> None:
    before = store.save(new_chat(owner).ask("One"))
    sent = send(before)
    with pytest.raises(ChatChanged):
        send(before)
    assert queues.position(client, f"model-{owner}", job_of(sent)) == 0
    assert client.llen(queues.queue_key(f"model-{owner}")) == 1


def test_a_deleted_chat_does_not_come_back(
    store: Chats, owner: str, send: Callable[[Chat], Chat], client: redis.Redis
) -> None:
    sent = send(store.save(new_chat(owner).ask("One")))
    store.delete(sent)
    with pytest.raises(ChatNotFound, match="deleted"):
        store.save(sent)
    assert store.entries(owner) == []
    assert client.hget(keys.job(job_of(sent)), "keep_s") is None


def test_an_answer_that_nobody_awaited_is_in_the_chat(
    store: Chats, owner: str, send: Callable[[Chat], Chat], client: redis.Redis
) -> None:
    sent = send(new_chat(owner).ask("Hello"))
    job_id = job_of(sent)
    answer(client, job_id, "Good ", "morning")
    half = store.read(owner, sent.id)
    assert half.version == sent.version and half.under_way is not None
    assert (half.under_way.text, half.under_way.worker) == ("Good morning", "worker-7")

    channel.append(client, [(job_id, end(1, 3))])
    assert ttl(client, keys.events(job_id)) in MONTH
    client.delete(keys.job(job_id))  # it expires long before
    chat = store.read(owner, sent.id)
    assert chat.last is not None and chat.last.has_ended
    assert (chat.last.text, chat.last.finish) == ("Good morning.", "stop")
    assert chat.last.usage == end(1, 3).usage and chat.last.timings == end(1, 3).timings
    assert 0 < ttl(client, keys.events(job_id)) <= keys.ENDED_EVENTS_TTL_S

    client.delete(keys.events(job_id))
    assert store.read(owner, sent.id) == chat


def test_an_answer_is_taken_in_once_by_many_readers_at_once(
    store: Chats, owner: str, send: Callable[[Chat], Chat], client: redis.Redis
) -> None:
    sent = send(new_chat(owner).ask("Hello"))
    answer(client, job_of(sent), "Good ")
    store.change(owner, sent.id, lambda chat: chat.with_title("half an answer is kept"))
    channel.append(client, [(job_of(sent), end(1, 2))])
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda _: store.read(owner, sent.id), range(16)))
    assert {chat.version for chat in read} == {sent.version + 2}
    assert all(chat.turns == read[0].turns for chat in read)
    assert read[0].messages[-1].text == "Good ."


def test_a_cancelled_waiting_job_and_a_failed_one_end_in_the_chat(
    store: Chats, owner: str, send: Callable[[Chat], Chat], client: redis.Redis
) -> None:
    sent = send(new_chat(owner).ask("Never mind"))
    cancellation.cancel(client, job_of(sent))
    assert ttl(client, keys.events(job_of(sent))) in MONTH
    chat = store.read(owner, sent.id)
    assert chat.last is not None and chat.last.finish == "cancelled"

    sent = send(chat.ask_again())
    answer(client, job_of(sent), "Well")
    error = WorkerFailed("The engine failed.").body
    channel.append(client, [(job_of(sent), Failed(EventId(1, 2), error))])
    chat = store.read(owner, sent.id)
    assert chat.last is not None
    assert (chat.last.text, chat.last.error) == ("Well", error)


def test_other_jobs_logs_go_as_early_as_ever(client: redis.Redis) -> None:
    job_id = make_job(client)
    claim(client, job_id)
    channel.append(client, [(job_id, end(1, 1))])
    assert 0 < ttl(client, keys.events(job_id)) <= keys.ENDED_EVENTS_TTL_S


def assert_kept_a_month(
    client: redis.Redis, names: Iterable[str], change: Callable[[], object]
) -> None:
    """All keys live for a month, and for a month from a change on."""
    for name in names:
        assert ttl(client, name) in MONTH
        client.expire(name, 5)
    change()
    for name in names:
        assert ttl(client, name) in MONTH


def test_every_key_of_a_chat_lives_a_month_from_the_last_change(
    store: Chats, owner: str, client: redis.Redis
) -> None:
    kept = store.save(new_chat(owner).ask("One").model_copy(update={"share": uuid.uuid4().hex}))
    names = (keys.chat(kept.id), keys.chats(owner), keys.share(kept.share))
    assert_kept_a_month(client, names, lambda: store.save(kept.with_title("Again")))


def test_a_chats_picture_lives_as_long_as_the_chat(
    store: Chats, owner: str, client: redis.Redis
) -> None:
    sha256 = images.put(client, uuid.uuid4().bytes)
    store.save(new_chat(owner).ask("Look", (sha256,)))
    assert ttl(client, keys.image(sha256)) in MONTH
    data = images.get(client, [sha256])[sha256]
    assert images.exists(client, sha256) and images.put(client, data) == sha256
    assert ttl(client, keys.image(sha256)) in MONTH
    pipe = client.pipeline()
    images.keep(pipe, sha256, keys.QUARANTINE_TTL_S)
    pipe.execute()
    assert ttl(client, keys.image(sha256)) in MONTH


def test_a_link_shows_a_chat_until_it_is_revoked(store: Chats, owner: str) -> None:
    token = uuid.uuid4().hex
    kept = store.save(new_chat(owner).ask("Look").model_copy(update={"share": token}))
    assert store.shared(token) == kept
    store.change(owner, kept.id, lambda chat: chat.model_copy(update={"share": ""}))
    for gone in (token, "never", ""):
        with pytest.raises(ChatNotFound, match="shows no chat"):
            store.shared(gone)


def test_the_number_of_chats_is_bounded_and_expired_ones_do_not_count(
    store: Chats, owner: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chats, "MAX_CHATS", 3)
    kept = [store.save(new_chat(owner).ask(f"chat {n}")) for n in range(3)]
    with pytest.raises(ChatTooLarge, match=r"You have 3 chats, which is the limit. Delete one"):
        store.save(new_chat(owner).ask("one too many"))
    kept[0] = store.save(kept[0].ask("old ones go on"))
    store.delete(kept[1])
    store.save(new_chat(owner).ask("room again"))
    client.zadd(keys.chats(owner), {kept[2].id: time.time() - keys.CHAT_TTL_S - 1})
    client.delete(keys.chat(kept[2].id))
    store.save(new_chat(owner).ask("and again"))
    titles = [each.title for each in store.entries(owner)]
    assert titles == ["and again", "room again", "chat 0"]


def test_turns_and_bytes_are_bounded(store: Chats, owner: str) -> None:
    chat = new_chat(owner)
    for n in range(conversation.MAX_TURNS):
        chat = chat.ask(str(n))
        job = GenerateRequest(id="j", model="m", messages=(), created_s=0.0)
        sent = chat.send(job)
        assert sent.last is not None
        chat = sent.with_last(sent.last.model_copy(update={"text": "yes", "finish": "stop"}))
    with pytest.raises(ChatTooLarge, match=r"This chat has 200 turns, which is the limit. Begin"):
        chat.ask("one more")
    assert store.save(chat).version == 1
    with pytest.raises(ChatTooLarge, match=r"over 2 MiB, which is the limit. Begin a new one"):
        store.save(new_chat(owner).ask("x" * chats.MAX_BYTES))


def test_an_edit_keeps_the_pictures_and_drops_what_came_after() -> None:
    chat = new_chat("me").ask("Which colour?", (SHA,))
    job = GenerateRequest(id="j", model="m", messages=(), created_s=0.0)
    sent = chat.send(job)
    assert sent.last is not None
    said = sent.with_last(sent.last.model_copy(update={"text": "red", "finish": "stop"}))
    longer = said.ask("And now?")
    edited = longer.edit(0, "Which shape?")
    assert [message.text for message in edited.messages] == ["Which shape?"]
    assert edited.images == (SHA,)
    assert longer.undo() == said
    assert said.ask_again().messages == chat.messages
    for place in (-1, 2):
        with pytest.raises(InvalidRequest, match="no such message"):
            longer.edit(place, "x")
    with pytest.raises(InvalidRequest, match="An empty message"):
        longer.edit(1, " ")
    with pytest.raises(InvalidRequest, match="no such message"):
        new_chat("me").ask_again()


def test_the_system_prompt_stands_before_all_turns_and_a_silent_answer_is_none() -> None:
    chat = new_chat("me").model_copy(update={"system": "Be brief."}).ask("Hello")
    job = GenerateRequest(id="j", model="m", messages=(), created_s=0.0)
    assert [message.role for message in chat.send(job).messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("  What\n is this? ", "What is this?"),
        ("word " * 30, "word word word word word word word word word…"),
        ("", "Picture"),
    ],
)
def test_a_title_is_made_of_the_first_words(text: str, title: str) -> None:
    chat = new_chat("me").ask(text, (SHA,))
    assert chat.first_words == title
    assert chat.with_title(" \n").title == title
    assert len(chat.with_title("x" * 500).title) == conversation.MAX_TITLE
