"""The worker's routes, asked as LLaVA's, InternVL's and FastChat's programs ask them."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker import keys
from broker.messages import GenerateRequest
from tests.frontend.clients import Connection, data_uri
from tests.frontend.originals import (
    STREAM,
    chunks,
    connect,
    fastchat,
    internvl,
    llava,
    post,
    vicuna,
)
from tests.frontend.test_api_disconnect import last_chat, running
from tests.pictures import scene
from tests.stack import Stack, free_port, until

RED = scene(("circle", "red", (60, 60)))
BLUE = scene(("square", "blue", (90, 90)))


def named(picture: bytes) -> str:
    """The word that the echo engine says for a picture."""
    return f"[image {hashlib.sha256(picture).hexdigest()[:8]}]"


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    return echo_stack.api()


def last(address: str, value: Any) -> dict[str, Any]:
    *before, last = chunks(address, value)
    assert all(chunk["error_code"] == 0 for chunk in before)
    return last


def error(address: str, value: Any) -> tuple[int, str]:
    (only,) = chunks(address, value)
    assert set(only) == {"text", "error_code"}
    return only["error_code"], only["text"]


def submitted(
    stack: Stack, address: str, value: Any, route: str = STREAM, **headers: str
) -> tuple[GenerateRequest, bytes]:
    """What a worker gets to do for a payload, and the reply."""
    reply = post(address, route, value, **headers)
    record: Any = stack.redis.hget(keys.job(reply.headers["X-Request-Id"]), "request")
    return GenerateRequest.model_validate_json(record), reply.body


def test_internvls_answer_is_the_text_so_far(address: str) -> None:
    texts = [chunk["text"] for chunk in chunks(address, internvl("echo", "one two three"))]
    assert texts[-1] == "one two three"
    assert all("one two three".startswith(text) for text in texts)


def test_internvls_messages_and_pictures_arrive_in_order(echo_stack: Stack, address: str) -> None:
    payload = internvl("echo", "compare", RED, BLUE, system="You are brief.")
    payload["prompt"] += [
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "and now?", "image": []},
    ]
    request, body = submitted(echo_stack, address, payload)
    assert body.endswith(b'{"text": "and now?", "error_code": 0}\0')
    assert [message.role for message in request.messages] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert [part.type for part in request.messages[1].content] == ["image", "image", "text"]
    assert request.images == tuple(hashlib.sha256(each).hexdigest() for each in (RED, BLUE))
    assert (request.sampling.max_input_tiles, request.sampling.max_tokens) == (12, 1024)
    assert last(address, internvl("echo", "look", RED))["text"] == f"{named(RED)} look"


def test_llavas_answer_begins_with_the_prompt(address: str) -> None:
    prompt = vicuna("<image>\nWhat is »this«?")
    told = list(chunks(address, llava("echo", prompt, RED)))
    assert all(chunk["text"].startswith(prompt) for chunk in told)
    assert told[-1]["text"][len(prompt) :].strip() == f"{named(RED)} What is »this«?"
    assert set(told[-1]) == {"text", "error_code"}


def test_a_ready_prompt_reaches_the_worker_with_pictures_at_their_marks(
    echo_stack: Stack, address: str
) -> None:
    payload = llava("echo", "first <image> then <image>.", RED, BLUE)
    (message,) = submitted(echo_stack, address, payload)[0].messages
    assert message.role == "prompt"
    assert [part.type for part in message.content] == ["text", "image", "text", "image", "text"]
    assert message.text == "first  then ."


def test_fastchats_answer_has_no_prompt_but_says_why_it_ended(address: str) -> None:
    told = list(chunks(address, fastchat("echo", vicuna("one two three"))))
    assert told[-1]["text"].strip() == "one two three"
    assert [chunk["finish_reason"] for chunk in told] == [None] * (len(told) - 1) + ["stop"]
    usage = told[-1]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 4
    cut = last(address, fastchat("echo", vicuna("one two three"), max_new_tokens=2))
    assert (cut["text"].strip(), cut["finish_reason"]) == ("one two", "length")


def test_fastchats_pictures_may_be_data_uris(address: str) -> None:
    for picture in (data_uri(RED), data_uri(RED).partition(",")[2]):
        prompt = vicuna("$$<image>$$what?")
        told = last(address, fastchat("echo", prompt, images=[picture]))
        assert told["text"].strip() == f"{named(RED)} what?"


def test_fastchats_whole_answer_is_one_object(address: str) -> None:
    reply = post(address, "/worker_generate", fastchat("echo", vicuna("one two")))
    assert reply.status == 200
    assert reply.json["text"].strip() == "one two"
    assert (reply.json["error_code"], reply.json["finish_reason"]) == (0, "stop")
    assert set(reply.json["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    echoed = post(address, "/worker_generate", fastchat("echo", vicuna("one"), echo=True)).json
    assert echoed["text"].startswith(vicuna("one"))
    refused = post(address, "/worker_generate", fastchat("other", "one"))
    assert (refused.status, refused.json["error_code"]) == (200, 2)


def test_fastchats_server_gets_what_it_asks_before(address: str) -> None:
    conv = post(address, "/worker_get_conv_template", {"model": "echo"}).json["conv"]
    assert conv["roles"] == ["USER", "ASSISTANT"]
    assert (conv["sep_style"], conv["sep"], conv["sep2"], conv["offset"]) == (2, " ", "</s>", 0)
    assert set(conv) == {
        "name", "system_template", "system_message", "roles", "messages", "offset", "sep_style",
        "sep", "sep2", "stop_str", "stop_token_ids",
    }  # fmt: skip
    details = post(address, "/model_details", {"model": "echo"})
    assert (details.status, details.json) == (200, {"context_length": 8192})
    counted = post(address, "/count_token", {"model": "echo", "prompt": "one two three"})
    assert (counted.status, counted.json) == (200, {"count": 3, "error_code": 0})


def test_what_cannot_be_told_beforehand_is_said_in_a_sentence(address: str) -> None:
    details = post(address, "/model_details", {"model": "other"})
    assert (details.status, details.json["error_code"]) == (200, 2)
    counted = post(address, "/count_token", {"model": "other", "prompt": "x"}).json
    assert (counted["count"], counted["error_code"]) == (0, 2)
    assert "other" in counted["text"]
    assert post(address, "/count_token", {"model": "echo"}).json["error_code"] == 1
    embedded = post(address, "/worker_get_embeddings", {"model": "echo", "input": ["x"]})
    assert (embedded.status, embedded.json["error_code"]) == (200, 1)
    assert "mbeddings" in embedded.json["text"]


def test_an_unknown_model_is_one_chunk_with_code_2(address: str) -> None:
    code, text = error(address, llava("other", "hello"))
    assert code == 2
    assert text == "Model 'other' is not served here. Served: echo."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "<image> one"}, "1 marks <image> for 0 images"),
        ({"prompt": "<image><image>", "images": ["QUJD"]}, "2 marks <image> for 1 images"),
        ({"prompt": "none", "images": ["QUJD"]}, "0 marks <image> for 1 images"),
        ({"prompt": "<image>", "images": ["QUJD"]}, "image cannot be read"),
        ({"prompt": "<image>", "images": ["!"]}, "base64 is broken"),
        ({"prompt": "<image>", "images": ["http://h/x.png"]}, "not fetched from the network"),
        ({"prompt": "<image>" * 17, "images": ["QUJD"] * 17}, "at most 16"),
        ({"prompt": "   "}, "is empty"),
        ({"prompt": 5}, "prompt must be a string or a list"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "must be the user's"),
        ({"prompt": [{"role": "system", "content": "x", "image": ["QUJD"]}]}, "only the user's"),
        ({"prompt": [{"role": "user", "content": "x"}], "images": ["QUJD"]}, "its own list image"),
        ({"prompt": "word " * 9000}, "holds 8192"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop_token_ids": "x"}, "stop_token_ids"),
    ],
)
def test_a_bad_request_is_one_chunk_with_code_1(
    address: str, change: dict[str, Any], words: str
) -> None:
    code, text = error(address, llava("echo", "hello") | change)
    assert code == 1
    assert words in text


def test_an_error_of_a_worker_names_the_job(echo_stack: Stack, address: str) -> None:
    _, text = error(address, llava("echo", "word " * 9000))
    job_id = text.rpartition("(job ")[2][:-1]
    assert echo_stack.redis.exists(keys.job(job_id)) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'"x"', b"\xff", b"[" * 5000])
@pytest.mark.parametrize("route", [STREAM, "/worker_generate", "/count_token", "/model_details"])
def test_a_body_that_is_no_object_is_an_error_of_http(
    address: str, body: bytes, route: str
) -> None:
    with closing(connect(address)) as connection:
        connection.request("POST", route, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 400
        assert json.loads(response.read())["error"]["code"] == "invalid_request"


@pytest.fixture(scope="module")
def slow_prefill(echo_stack: Stack) -> str:
    echo_stack.echo_worker("prefill_s=4", **{"model-name": "thoughtful"})
    return "thoughtful"


def test_a_client_that_waits_hears_that_its_answer_is_coming(
    address: str, slow_prefill: str
) -> None:
    payload = internvl(slow_prefill, "hello")
    with closing(connect(address, 3.5)) as connection:
        began = time.monotonic()
        connection.request(
            "POST", STREAM, json.dumps(payload), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        assert time.monotonic() - began < 1.0, "the header came late"
        body = response.read()  # nothing within 3.5 s would be an error
    silence, _, answer = body.partition(b"{")
    assert len(silence) >= 2 and set(silence) == {0}
    assert answer.endswith(b'"text": "hello", "error_code": 0}\0')


def test_a_client_that_leaves_frees_its_slot(echo_stack: Stack, address: str) -> None:
    flags = {"limit-model-concurrency": "1", "model-name": "slow"}
    worker = echo_stack.echo_worker("tokens_per_s=20&tokens=2000", **flags)
    with Connection(address) as client:
        client.send(internvl("slow", "word"), STREAM)
        client.wait_for('{"text": "word word')
        assert running(echo_stack, worker) <= 1
    until(lambda: last_chat(echo_stack).get("outcome") == "cancelled", "the job is cancelled")
    assert len(last_chat(echo_stack)["answer"].split()) < 40
    with Connection(address) as client:
        client.send(fastchat("slow", "word"), "/worker_generate")
        until(lambda: running(echo_stack, worker), "the job runs")
    until(lambda: running(echo_stack, worker) == 0, "the slot is free")
    worker.stop()


def test_redis_that_is_away_is_code_3(tmp_path: Path) -> None:
    stack = Stack(f"redis://127.0.0.1:{free_port()}/0", tmp_path)
    try:
        code, _ = error(stack.api(), llava("echo", "hello"))
        assert code == 3
    finally:
        stack.stop()


def test_a_request_that_comes_round_is_refused(echo_stack: Stack, address: str) -> None:
    own = post(address, "/worker_get_status").headers["X-Heliograph-Cell"]
    code, text = error(address, internvl("echo", "hello", heliograph_path=["abc", own]))
    assert code == 1 and own in text
    payload, header = fastchat("echo", "hello"), {"X-Heliograph-Path": f"abc, {own}"}
    refused = post(address, "/worker_generate", payload, **header)
    assert (refused.status, refused.json["error_code"]) == (200, 1)
    chat = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    circle = post(address, "/v1/chat/completions", chat, **header)
    assert (circle.status, circle.json["error"]["code"]) == (508, "loop_detected")


def test_a_request_from_other_cells_keeps_its_path(echo_stack: Stack, address: str) -> None:
    payload = internvl("echo", "hello", heliograph_path=["one", "two"])
    request, body = submitted(echo_stack, address, payload)
    assert request.path == ("one", "two")
    assert b'"finish_reason": "stop"}\0' in body
    header = {"X-Heliograph-Path": "one,three"}
    chat = {"model": "echo", "messages": [{"role": "user", "content": "from afar"}]}
    request, _ = submitted(echo_stack, address, chat, "/v1/chat/completions", **header)
    assert request.path == ("one", "three")
