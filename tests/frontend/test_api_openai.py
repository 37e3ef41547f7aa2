"""The official client drives the API: models, answers whole and streamed, pictures, errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import openai
import pytest

from tests.frontend.clients import data_uri, image_message, official
from tests.pictures import scene
from tests.stack import Stack

SAY = [{"role": "user", "content": "one two three"}]


@pytest.fixture(scope="module")
def client(echo_stack: Stack) -> Iterator[openai.OpenAI]:
    with official(echo_stack.api()) as made:
        yield made


def test_models_lists_what_live_workers_serve(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("echo", "model", "heliograph")
    assert model.created > 1_700_000_000
    assert model.to_dict()["max_model_len"] == 8192
    assert model.to_dict()["ready_workers"] == 1


def test_one_model_can_be_asked_for(client: openai.OpenAI) -> None:
    assert client.models.retrieve("echo").id == "echo"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("some/other")
    assert refused.value.code == "model_not_found"
    assert "echo" in refused.value.message


def test_a_whole_answer_has_text_reason_and_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=SAY)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "echo")
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason) == (0, "stop")
    assert (choice.message.role, choice.message.content) == ("assistant", "one two three")
    usage = answer.usage
    assert usage is not None and usage.prompt_tokens == 3
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_streamed_answer_says_role_text_and_reason_in_this_order(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="echo", messages=SAY, stream=True) as stream:
        chunks = list(stream)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(delta.content or "" for delta in deltas) == "one two three"
    assert deltas[-1].to_dict() == {}
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_the_usage_comes_in_a_chunk_of_its_own_when_asked_for(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="echo", messages=SAY, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)
    assert all("usage" in chunk.to_dict() and chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None and last.usage.prompt_tokens == 3


def test_streamed_and_whole_answers_are_the_same(client: openai.OpenAI) -> None:
    text = 'Grüße \u2028 an 世界 \U0001f600 \\ " {json} </script> data: [DONE] end'
    messages = [{"role": "user", "content": text}]
    whole = client.chat.completions.create(model="echo", messages=messages)
    with client.chat.completions.create(model="echo", messages=messages, stream=True) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content == text


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_token_limit_cuts_the_answer(client: openai.OpenAI, name: str) -> None:
    answer = client.chat.completions.create(model="echo", messages=SAY, **{name: 2})
    assert answer.choices[0].message.content == "one two"
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stop", ["two", ["absent", " two"]])
def test_a_stop_string_ends_the_answer_before_itself(
    client: openai.OpenAI, stop: str | list[str]
) -> None:
    answer = client.chat.completions.create(model="echo", messages=SAY, stop=stop)
    assert (answer.choices[0].message.content or "").strip() == "one"
    assert answer.choices[0].finish_reason == "stop"


def test_every_accepted_parameter_passes(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="echo",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": None},
            {"role": "user", "name": "ada", "content": "b"},
        ],
        temperature=0,
        top_p=0.5,
        seed=0,
        n=1,
        user="u",
        logprobs=False,
        top_logprobs=0,
        presence_penalty=-2,
        frequency_penalty=2.0,
        logit_bias={"5": -100, "0": 100},
        response_format={"type": "text"},
        extra_body={
            "max_input_tiles": 4,
            "image_process_mode": "Default",
            "top_k": -1,
            "min_p": 0,
            "repetition_penalty": 1.05,
            "min_tokens": 0,
            "ignore_eos": False,
            "stop_token_ids": [],
            "unheard_of": {"x": 1},
        },
    )
    assert answer.choices[0].message.content == "b"


def test_the_picture_that_was_sent_is_the_picture_the_worker_gets(client: openai.OpenAI) -> None:
    pictures = [scene(("circle", "red", (60, 60))), scene(("square", "blue", (90, 90)))]
    messages = image_message(*map(data_uri, pictures))
    answer = client.chat.completions.create(model="echo", messages=messages)
    hashes = [hashlib.sha256(picture).hexdigest()[:8] for picture in pictures]
    words = (answer.choices[0].message.content or "").split()
    assert words == ["look", "[image", f"{hashes[0]}]", "[image", f"{hashes[1]}]"]


def test_errors_arrive_as_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="echo", messages=SAY, temperature=3)
    assert refused.value.param == "temperature"
    assert "less than or equal to 2; 3 was sent" in refused.value.message
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=SAY)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")


def test_a_request_that_the_worker_refuses_gets_its_status_streamed_or_not(
    client: openai.OpenAI,
) -> None:
    long = [{"role": "user", "content": "word " * 9000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="echo", messages=long, stream=stream)
        assert refused.value.code == "context_length_exceeded"
        assert "8192" in refused.value.message.replace(",", "")


def test_the_request_id_is_echoed_or_else_the_jobs(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    own = create(model="echo", messages=SAY)
    assert f"chatcmpl-{own._request_id}" == own.id
    mine = create(model="echo", messages=SAY, extra_headers={"X-Request-Id": "trace:7.a-B"})
    assert mine._request_id == "trace:7.a-B"
    odd = create(model="echo", messages=SAY, extra_headers={"X-Request-Id": "<b>" * 60})
    assert f"chatcmpl-{odd._request_id}" == odd.id
