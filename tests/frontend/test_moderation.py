"""Moderation: the word list, the endpoint's protocol, and what is done when there is no verdict."""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from broker import images, keys
from broker.connection import connect
from broker.errors import (
    ConfigurationError,
    ContentFlagged,
    ModerationUnavailable,
    RedisUnavailable,
)
from broker.settings import Settings
from frontend.moderation.endpoint import MAX_CATEGORIES, MAX_REPLY_BYTES, Endpoint
from frontend.moderation.gate import Gate
from frontend.moderation.verdict import ModerationFailed, Verdict
from frontend.moderation.words import WordList
from tests.pictures import encode, scene
from tests.scripted import Answer, Exchange, Scripted, scripted
from tests.stack import free_port

KEY = "sk-very-secret"
TEXT = 'They said "no" \\ and {"}: rocket fuel'


def verdict(flagged: bool = False, **categories: bool) -> dict[str, Any]:
    return {
        "id": "modr-1",
        "model": "omni",
        "results": [
            {
                "flagged": flagged,
                "categories": categories,
                "category_scores": dict.fromkeys(categories, 0.5),
            }
        ],
    }


def saying(status: int, content: bytes | object, **headers: str) -> Answer:
    return lambda exchange: exchange.reply(status, content, **headers)


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A moderation endpoint that flags nothing, until a test says otherwise."""
    with scripted({"/v1/moderations": saying(200, verdict())}) as made:
        yield made


def endpoint(server: Scripted, timeout_s: float = 20) -> Endpoint:
    return Endpoint(f"{server.url}/v1", key=KEY, model="omni", timeout_s=timeout_s)


# The word list


@pytest.mark.parametrize(
    "text",
    [
        "rocket fuel",
        "Where is ROCKET-FUEL?",
        "rocket\n\tfuel",
        "\uff32\uff4f\uff43\uff4b\uff45\uff54 fuel",  # wide letters
        "ro\u200bck\u00adet fuel",  # invisible characters
        "STRASSE",
        "cafe\u0301",  # an accent of its own
        "这是火箭燃料吗",
    ],
)
def test_a_word_is_found_however_it_is_written(text: str) -> None:
    words = WordList(["rocket fuel", "straße  # a street", "# none", "", "café", "火箭燃料"])
    assert words.judge(text, ()) == Verdict(True, ("word list",))


@pytest.mark.parametrize(
    "text", ["", "rockets fuel", "a fuel rocket", "scunthorpe", "none", "cafe"]
)
def test_only_whole_words_are_found(text: str) -> None:
    words = WordList(["rocket fuel", "cunt", "café", "# none"])
    assert words.judge(text, (b"picture",)) == Verdict(False)


def test_the_list_that_comes_along_flags_and_passes() -> None:
    words = WordList.load("")
    assert words.judge("Tell me how to make a pipe bomb.", ()).flagged
    assert not words.judge("How many red circles are there? Kill the process yourself.", ()).flagged


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "has no words"),
        (b"# nothing\n\n...\n", "has no words"),
        (b"one two three four five six seven eight nine ten eleven", "a line of 11 words"),
        (b"\xff\xfe", "must be a text file in UTF-8"),
        (None, "cannot be read \\(FileNotFoundError\\)"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=why):
        WordList.load(str(path))


# The endpoint


def test_a_text_is_asked_about_in_proper_json(server: Scripted) -> None:
    assert endpoint(server).judge(TEXT, ()) == Verdict(False)
    (asked,) = server.seen
    assert asked.path == "/v1/moderations"
    assert asked.body == {"model": "omni", "input": [{"type": "text", "text": TEXT}]}
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.headers["Content-Type"] == "application/json"


def test_without_a_key_none_is_sent(server: Scripted) -> None:
    Endpoint(f"{server.url}/v1/moderations", key="", model="omni", timeout_s=20).judge("x", ())
    assert "Authorization" not in server.seen[0].headers


def test_each_picture_is_asked_about_and_any_may_be_flagged(server: Scripted) -> None:
    pictures = [scene(("circle", colour, (60, 60))) for colour in ("red", "blue")]
    photo = encode(Image.new("RGB", (60, 60)), "JPEG")

    def answer(exchange: Exchange) -> None:
        url = exchange.body["input"][-1]["image_url"]["url"]
        violent = url.startswith("data:image/jpeg")
        exchange.reply(200, verdict(violent, violence=violent, hate=False))

    server.answers["/v1/moderations"] = answer
    found = endpoint(server).judge(TEXT, [*pictures, photo])
    assert found == Verdict(True, ("violence",))
    inputs = [each.body["input"] for each in server.seen]
    with_text = [parts for parts in inputs if len(parts) == 2]
    assert [parts[0] for parts in with_text] == [{"type": "text", "text": TEXT}]
    sent = {parts[-1]["image_url"]["url"] for parts in inputs}
    assert sent == {
        f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        for kind, data in (("png", pictures[0]), ("png", pictures[1]), ("jpeg", photo))
    }


def test_a_message_without_a_word_or_picture_is_not_asked_about(server: Scripted) -> None:
    assert endpoint(server).judge("", ()) == Verdict(False)
    assert server.seen == []


def test_half_a_pair_of_surrogates_is_sent_as_a_question_mark(server: Scripted) -> None:
    endpoint(server).judge("a\ud800b", ())
    assert server.seen[0].body["input"][0]["text"] == "a?b"


def test_what_is_flagged_is_told_in_bounds(server: Scripted) -> None:
    many = {f"{n} " + "x" * 500: True for n in range(100)}
    server.answers["/v1/moderations"] = saying(200, verdict(True, **many))
    found = endpoint(server).judge("x", ())
    assert found.flagged
    assert len(found.categories) == MAX_CATEGORIES
    assert max(map(len, found.categories)) == 60


def broken_off(exchange: Exchange) -> None:
    exchange.begin("application/json")
    exchange.send(b'{"results": [')


def closed(exchange: Exchange) -> None:
    exchange.handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (saying(401, {"error": {"message": f"wrong key {KEY}"}}), "it answered HTTP 401"),
        (saying(429, {}), "it answered HTTP 429"),
        (saying(500, b"<html>"), "it answered HTTP 500"),
        (saying(302, b"", Location="http://127.0.0.1:9/"), "it answered HTTP 302"),
        (saying(200, b""), "not one of a moderation API"),
        (saying(200, b"<html>"), "not one of a moderation API"),
        (saying(200, b"\xff\xfe"), "not one of a moderation API"),
        (saying(200, []), "not one of a moderation API"),
        (saying(200, {"results": []}), "not one of a moderation API"),
        (saying(200, {"results": [{}]}), "not one of a moderation API"),
        (saying(200, {"results": [{"flagged": "false"}]}), "not one of a moderation API"),
        (saying(200, {"results": [{"flagged": None}]}), "not one of a moderation API"),
        (saying(200, b"[" * 100_000), "not one of a moderation API"),
        (saying(200, b" " * (MAX_REPLY_BYTES + 1)), "more than 1,048,576 bytes"),
        (broken_off, "not one of a moderation API"),
        (closed, r"the connection failed \(RemoteProtocolError\)"),
    ],
)
def test_what_is_no_verdict_is_a_failure(server: Scripted, answer: Answer, why: str) -> None:
    server.answers["/v1/moderations"] = answer
    with pytest.raises(ModerationFailed, match=why) as failed:
        endpoint(server).judge(TEXT, ())
    assert KEY not in str(failed.value)


def test_a_server_that_is_not_there_is_a_failure() -> None:
    away = Endpoint(f"http://127.0.0.1:{free_port()}", key=KEY, model="omni", timeout_s=20)
    with pytest.raises(ModerationFailed, match=r"the connection failed \(ConnectError\)"):
        away.judge(TEXT, ())


def silent(exchange: Exchange) -> None:
    assert exchange.left()


def trickling(exchange: Exchange) -> None:
    exchange.begin("application/json")
    tick = threading.Event()
    while not tick.wait(0.02):  # until the client leaves
        exchange.send(b" ")


@pytest.mark.parametrize("answer", [silent, trickling])
def test_a_verdict_has_its_time_however_the_server_hangs(server: Scripted, answer: Answer) -> None:
    server.answers["/v1/moderations"] = answer
    began = time.monotonic()
    with pytest.raises(ModerationFailed, match=r"no answer within 0\.3 s"):
        endpoint(server, timeout_s=0.3).judge("x", [scene()] * 3)
    assert 0.3 <= time.monotonic() - began < 10


def test_a_picture_that_cannot_be_opened_is_a_failure(server: Scripted) -> None:
    with pytest.raises(ModerationFailed, match="cannot be opened"):
        endpoint(server).judge("x", [b"no picture"])
    assert server.seen == []


# The gate


def gate(server: Scripted, client: redis.Redis, **settings: str) -> Gate:
    environ = {
        "HELIOGRAPH_MODERATION_URL": f"{server.url}/v1",
        "HELIOGRAPH_MODERATION_KEY": KEY,
        **{f"HELIOGRAPH_MODERATION_{name.upper()}": value for name, value in settings.items()},
    }
    return Gate.from_settings(client, Settings.from_environment(environ))


def logged(client: redis.Redis, count: int = 1) -> list[dict[str, str]]:
    entries: Any = client.xrevrange(keys.MODERATION_LOG, count=count)
    rows = [
        {name.decode(): value.decode() for name, value in fields.items()}
        for _, fields in reversed(entries)
    ]
    for row in rows:
        assert 0 <= int(row.pop("ms")) < 60_000
    return rows


def test_what_passes_is_logged_without_its_text(server: Scripted, client: redis.Redis) -> None:
    picture = scene()
    gate(server, client).check(TEXT, [picture], subject="chat-7")
    assert logged(client) == [
        {
            "moderator": "endpoint",
            "decision": "allowed",
            "categories": "",
            "failure": "closed",
            "characters": str(len(TEXT)),
            "images": images.digest(picture),
            "subject": "chat-7",
        }
    ]


def test_what_is_flagged_is_refused_with_the_reason(server: Scripted, client: redis.Redis) -> None:
    flagged = verdict(True, violence=True, **{"self-harm": True}, hate=False)
    server.answers["/v1/moderations"] = saying(200, flagged)
    with pytest.raises(ContentFlagged) as refused:
        gate(server, client, failure="open").check(TEXT)
    assert str(refused.value) == (
        "Your message breaks the content guidelines of this page (violence, self-harm), so it was "
        "not sent. Change it and try again."
    )
    (row,) = logged(client)
    assert (row["decision"], row["categories"]) == ("flagged", "violence, self-harm")


@pytest.mark.parametrize("answer", [saying(500, {}), saying(200, b"{"), closed])
def test_closed_refuses_and_open_lets_pass_when_there_is_no_verdict(
    server: Scripted, client: redis.Redis, answer: Answer
) -> None:
    server.answers["/v1/moderations"] = answer
    with pytest.raises(ModerationUnavailable, match=r"so it was not sent\. Try again later\."):
        gate(server, client).check(TEXT)
    gate(server, client, failure="open").check(TEXT)
    rows = [(row["decision"], row["failure"]) for row in logged(client, 2)]
    assert rows == [("failed", "closed"), ("failed", "open")]


def test_neither_key_nor_text_gets_into_any_log(
    server: Scripted, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers["/v1/moderations"] = saying(500, {"error": f"{KEY} {TEXT}"})
    with pytest.raises(ModerationUnavailable):
        gate(server, client).check(TEXT)
    server.answers["/v1/moderations"] = saying(200, verdict(True, violence=True))
    with pytest.raises(ContentFlagged):
        gate(server, client).check(TEXT)
    assert "moderation by endpoint failed: it answered HTTP 500" in caplog.text
    everything = caplog.text + str(logged(client, 2))
    assert KEY not in everything
    assert "rocket" not in everything
    assert KEY not in repr(Settings.from_environment({"HELIOGRAPH_MODERATION_KEY": KEY}))


def test_without_an_address_the_word_list_decides(client: redis.Redis, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("rocket fuel\n")
    made = Gate.from_settings(
        client, Settings.from_environment({"HELIOGRAPH_MODERATION_WORDS": str(path)})
    )
    made.check("Where is the rocket?", subject="chat-8")
    with pytest.raises(ContentFlagged, match=r"\(word list\)"):
        made.check(TEXT, subject="chat-8")
    rows = [(row["moderator"], row["decision"], row["subject"]) for row in logged(client, 2)]
    assert rows == [("words", "allowed", "chat-8"), ("words", "flagged", "chat-8")]


def test_with_both_the_words_come_first_and_the_endpoint_is_not_asked(
    server: Scripted, client: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "words.txt"
    path.write_text("rocket fuel\n")
    both = gate(server, client, words=str(path))
    with pytest.raises(ContentFlagged):
        both.check(TEXT)
    assert server.seen == []
    both.check("hello")
    assert len(server.seen) == 1
    assert [row["moderator"] for row in logged(client, 2)] == ["words", "endpoint"]


def test_many_messages_are_judged_at_once(server: Scripted, client: redis.Redis) -> None:
    flagged = [f"{n} bad" if n % 3 == 0 else str(n) for n in range(30)]

    def answer(exchange: Exchange) -> None:
        exchange.reply(200, verdict("bad" in exchange.body["input"][0]["text"], x=True))

    server.answers["/v1/moderations"] = answer
    made = gate(server, client)

    def passes(text: str) -> bool:
        try:
            made.check(text)
        except ContentFlagged:
            return False
        return True

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(passes, flagged)) == ["bad" not in text for text in flagged]


def test_a_decision_that_cannot_be_logged_lets_nothing_pass(server: Scripted) -> None:
    away = connect(f"redis://127.0.0.1:{free_port()}", retry=False)
    with pytest.raises(RedisUnavailable):
        gate(server, away, failure="open").check(TEXT)
    away.close()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("FAILURE", "maybe", "HELIOGRAPH_MODERATION_FAILURE='maybe' is none of closed, open."),
        ("URL", "api.example", "HELIOGRAPH_MODERATION_URL='api.example' is no address"),
        ("TIMEOUT_S", "0", "HELIOGRAPH_MODERATION_TIMEOUT_S=0 must be at least 1."),
        ("KEY", "né\n", "HELIOGRAPH_MODERATION_KEY has characters that no API key has"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_environment({f"HELIOGRAPH_MODERATION_{name}": value})
    assert sentence in str(refused.value)


def test_the_log_is_capped(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MODERATION_LOG_LENGTH", 10)
    made = Gate(client, [WordList(["x"])], fails_open=False)
    for _ in range(300):
        made.check("hello")
    assert client.xlen(keys.MODERATION_LOG) <= 200  # type: ignore[operator]


def test_a_moderator_of_ones_own_fits(client: redis.Redis) -> None:
    class Short:
        name = "short"

        def judge(self, text: str, images: Sequence[bytes]) -> Verdict:
            return Verdict(len(text) > 3, ("too long",))

    made = Gate(client, [Short()], fails_open=False)
    made.check("abc")
    with pytest.raises(ContentFlagged, match="too long"):
        made.check("abcd")
