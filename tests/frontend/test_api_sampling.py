"""The official client asks the demo model for log-probabilities and whatever else there is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionTokenLogprob
from PIL import Image

from tests.frontend.clients import body, data_uri, image_message, official
from tests.pictures import encode, scene
from tests.stack import Stack

PICTURE = data_uri(scene(("circle", "red", (60, 60)), ("square", "blue", (160, 160))))
ASK: dict[str, Any] = {
    "model": "heliograph-demo",
    "messages": image_message(PICTURE, text="What is in the picture?"),
    "max_tokens": 30,
}
GREEDY = ASK | {"temperature": 0}
HOT = ASK | {"temperature": 1.8, "seed": 17}
PENALTIES = {"presence_penalty": 1.0, "frequency_penalty": 0.5}
EXTRAS = {"top_k": 40, "min_p": 0.001, "repetition_penalty": 1.2, "min_tokens": 20}


@pytest.fixture(scope="module")
def client(demo_stack: Stack) -> Iterator[openai.OpenAI]:
    with official(demo_stack.api()) as made:
        yield made


def entries(answer: ChatCompletion) -> list[ChatCompletionTokenLogprob]:
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.refusal is None
    return logprobs.content or []


def test_a_whole_answer_has_openais_logprobs_for_each_of_its_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3)
    told = entries(answer)
    assert answer.usage is not None and len(told) == answer.usage.completion_tokens
    for entry in told:
        plain = entry.to_dict()
        assert set(plain) == {"token", "logprob", "bytes", "top_logprobs"}
        assert entry.token == bytes(entry.bytes or []).decode()
        values = [likely.logprob for likely in entry.top_logprobs]
        assert len(values) == 3 and values == sorted(values, reverse=True)
        likeliest = entry.top_logprobs[0].to_dict()
        assert likeliest == {key: plain[key] for key in ("token", "logprob", "bytes")}
        assert -1.1 < entry.logprob <= 0
    assert "".join(entry.token for entry in told[:-1]) == answer.choices[0].message.content
    assert told[-1].token == "<|im_end|>"


def test_a_stream_carries_the_same_logprobs_beside_its_text(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=2)
    told: list[ChatCompletionTokenLogprob] = []
    with client.chat.completions.create(
        **GREEDY, logprobs=True, top_logprobs=2, stream=True
    ) as stream:
        for chunk in stream:
            (choice,) = chunk.choices
            content = choice.logprobs.content if choice.logprobs else None
            text = "".join(entry.token for entry in content or [] if entry.token != "<|im_end|>")
            assert text == (choice.delta.content or "")
            told += content or []
    assert [entry.token for entry in told] == [entry.token for entry in entries(whole)]
    assert told == entries(whole)


def test_tokens_whose_text_is_held_back_keep_their_logprobs(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**GREEDY)
    text = plain.choices[0].message.content or ""
    stop = text[len(text) // 2 : len(text) // 2 + 8]
    answer = client.chat.completions.create(**GREEDY, logprobs=True, stop=[stop])
    assert answer.choices[0].message.content == text.partition(stop)[0]
    assert answer.usage is not None and len(entries(answer)) == answer.usage.completion_tokens
    spelled = "".join(entry.token for entry in entries(answer))
    assert stop in spelled and text.startswith(spelled)
    assert all(entry.top_logprobs == [] for entry in entries(answer))


def test_who_does_not_ask_gets_no_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY, logprobs=False, top_logprobs=0)
    assert answer.choices[0].to_dict()["logprobs"] is None


def test_the_same_seed_gives_the_same_answer_whatever_runs_beside_it(stack: Stack) -> None:
    # In bfloat16 the sums of the model itself come out differently in batches of different sizes.
    stack.worker("--dtype", "float32")

    def ask(seed: int, **wish: Any) -> str:
        answer = client.chat.completions.create(**(HOT | {"seed": seed} | wish))
        return answer.choices[0].message.content or ""

    wish = PENALTIES | {"extra_body": EXTRAS}
    seeds = [17 if n % 2 else n for n in range(16)]
    with official(stack.api()) as client:
        alone = ask(17, **wish)
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda seed: ask(seed, **wish), seeds))
        others = ask(17), ask(17, **PENALTIES)
    assert together[1::2] == [alone] * 8
    assert len({alone, *together[::2]}) > 4
    assert alone not in others


def test_a_token_can_be_favoured_and_its_logprob_stays_the_models_own(
    client: openai.OpenAI,
) -> None:
    wish = GREEDY | {"max_tokens": 4, "logprobs": True, "top_logprobs": 1}
    answer = client.chat.completions.create(**wish, logit_bias={"300": 100})
    (token,) = {entry.token for entry in entries(answer)}
    assert answer.choices[0].message.content == token * 4
    assert answer.choices[0].finish_reason == "length"
    for entry in entries(answer):
        assert entry.top_logprobs[0].token != token
        assert entry.top_logprobs[0].logprob > entry.logprob


def test_tiles_and_process_mode_decide_what_pictures_cost(client: openai.OpenAI) -> None:
    tile_tokens = 16

    def tokens(*pictures: bytes, **extra: Any) -> int:
        wish = GREEDY | {"messages": image_message(*map(data_uri, pictures)), "max_tokens": 1}
        usage = client.chat.completions.create(**wish, extra_body=extra).usage
        assert usage is not None
        return usage.prompt_tokens

    square = scene(("circle", "red", (60, 60)), size=336)
    wide = encode(Image.new("RGB", (448, 224), "white"))
    words = tokens(square, max_input_tiles=1) - tile_tokens
    assert tokens(square, max_input_tiles=4) == words + 5 * tile_tokens
    assert tokens(square, max_input_tiles=9) == words + 10 * tile_tokens
    assert tokens(wide, max_input_tiles=2) == words + 3 * tile_tokens
    assert tokens(wide, max_input_tiles=2, image_process_mode="Crop") == words + tile_tokens

    one_each = tokens(wide, wide, max_input_tiles=3)
    assert tokens(wide, wide, max_input_tiles=4) == one_each + 4 * tile_tokens


def test_the_usage_tells_what_became_of_each_picture(client: openai.OpenAI) -> None:
    pictures = (scene(("circle", "red", (60, 60)), size=336), encode(Image.new("RGB", (448, 224))))
    wish = GREEDY | {"messages": image_message(*map(data_uri, pictures)), "max_tokens": 1}
    usage = client.chat.completions.create(**wish, extra_body={"max_input_tiles": 4}).usage
    assert usage is not None and usage.prompt_tokens_details is not None
    details = usage.prompt_tokens_details.to_dict()
    tile = {"tile_width": 112, "tile_height": 112}
    assert details["images"] == [
        {"width": 336, "height": 336, "tiles": 1, **tile, "tokens": 16 + 2},
        {"width": 448, "height": 224, "tiles": 3, **tile, "tokens": 3 * 16 + 2},
    ]
    assert details["image_tokens"] == 4 * 16 + 4 < usage.prompt_tokens
    wish["messages"] = body()["messages"]
    text = client.chat.completions.create(**wish).usage
    assert text is not None and text.prompt_tokens_details is not None
    assert set(text.prompt_tokens_details.to_dict()) == {"cached_tokens"}


def test_benchmark_clients_get_exactly_the_tokens_they_ask_for(client: openai.OpenAI) -> None:
    for extra in ({"ignore_eos": True}, {"min_tokens": 25}):
        answer = client.chat.completions.create(**GREEDY | {"max_tokens": 25}, extra_body=extra)
        assert answer.usage is not None and answer.usage.completion_tokens == 25
        assert answer.choices[0].finish_reason == "length"


def test_ids_that_the_model_does_not_have_are_refused_streamed_or_not(
    client: openai.OpenAI,
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**GREEDY, logit_bias={"1024": 1}, stream=stream)
        assert refused.value.param == "logit_bias"
        assert "from 0 to 1023; 1024 was sent" in refused.value.message
