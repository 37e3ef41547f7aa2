"""The echo engine is a real engine: limits, stops, pictures, resume and pace all work."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from broker.errors import (
    ConfigurationError,
    ContextLengthExceeded,
    InvalidImage,
    InvalidRequest,
)
from tests.workers.ready import VICUNA, ready
from tests.workers.reference import ids, picture, request, run, text
from workers.engines import engine_names, load_engine
from workers.engines.base import Engine, EngineBroken, EngineOptions
from workers.scheduler import Output, Scheduler


def load(path: str = "echo") -> Engine:
    """An echo engine."""
    return load_engine(EngineOptions(path, engine="echo"), lambda percent: None)


def answer(engine: Engine, *parts: object, **sampling: object) -> list[Output]:
    """The outputs for one request alone."""
    scheduler = Scheduler(engine)
    scheduler.add(engine.prepare(request("r", *parts, **sampling), {}))  # type: ignore[arg-type]
    return run(scheduler)["r"]


def test_it_answers_with_the_words_of_the_last_message() -> None:
    outputs = answer(load(), "Hello  big\nworld")
    assert [output.text for output in outputs] == ["Hello", "  big", "\nworld", ""]
    assert outputs[-1].finish_reason == "stop"


def test_a_picture_becomes_a_word() -> None:
    part, data = picture(1, (9, 9))
    engine = load()
    scheduler = Scheduler(engine)
    asked = request("r", "Look at", part, "please")
    scheduler.add(engine.prepare(asked, {part.sha256: data}))
    assert text(run(scheduler)["r"]) == f"Look at [image {part.sha256[:8]}] please"


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (f"{VICUNA} USER: Hi ASSISTANT: Yes?</s>USER: <image>\nLook! ASSISTANT:", "{} Look!"),
        ("Once upon a time <image>", "Once upon a time  {}"),
    ],
)
def test_the_last_words_of_a_ready_prompt_are_found_or_all_are_told(prompt: str, told: str) -> None:
    part, data = picture(1, (9, 9))
    engine = load()
    scheduler = Scheduler(engine)
    asked = request("r").model_copy(update={"messages": (ready(prompt, part),)})
    scheduler.add(engine.prepare(asked, {part.sha256: data}))
    assert text(run(scheduler)["r"]) == told.format(f"[image {part.sha256[:8]}]")


def test_a_ready_prompt_beside_other_messages_is_refused() -> None:
    asked = request("r", "Hi")
    asked = asked.model_copy(update={"messages": (*asked.messages, ready("Hi"))})
    with pytest.raises(InvalidRequest, match="A ready prompt is the whole conversation"):
        load().prepare(asked, {})


def test_it_counts_words() -> None:
    assert load().count_tokens("one two\n three") == 3


def test_a_missing_picture_is_refused() -> None:
    part, _ = picture(1, (9, 9))
    with pytest.raises(InvalidImage):
        load().prepare(request("r", part), {})


def test_the_answer_can_be_made_longer_or_shorter() -> None:
    assert text(answer(load("echo?tokens=5"), "a b")) == "a b a b a"
    assert text(answer(load("echo?tokens=1"), "a b")) == "a"
    assert text(answer(load(), "")) == "..."


def test_limits_and_stop_strings_work() -> None:
    limited = answer(load("echo?tokens=100"), "a b", max_tokens=3)
    assert (text(limited), limited[-1].finish_reason) == ("a b a", "length")
    stopped = answer(load(), "one two three", stop=("wo th",))
    assert (text(stopped), stopped[-1].finish_reason) == ("one t", "stop")


def test_an_answer_may_be_made_to_go_on() -> None:
    longer = answer(load(), "a b", min_tokens=5)
    assert (text(longer), longer[-1].finish_reason) == ("a b a b a", "stop")
    endless = answer(load(), "a b", ignore_eos=True, max_tokens=7)
    assert (text(endless), endless[-1].finish_reason) == ("a b a b a b a", "length")
    assert ids(endless) == [1, 2, 3, 4, 5, 6, 7]


def test_stop_tokens_end_the_answer_unshown() -> None:
    stopped = answer(load(), "one two three", stop_token_ids=(3, 2))
    assert (text(stopped), stopped[-1].finish_reason) == ("one", "stop")
    assert ids(stopped) == [1, 2]
    later = answer(load(), "one two three", stop_token_ids=(1, 3), min_tokens=2)
    assert text(later) == "one two"
    anyway = answer(load(), "one two three", stop_token_ids=(2,), ignore_eos=True)
    assert text(anyway) == "one"


def test_stop_strings_wait_for_the_least_number_of_tokens() -> None:
    wish = {"stop": ("a",), "min_tokens": 3, "max_tokens": 9}
    stopped = answer(load("echo?tokens=9"), "a b", **wish)
    assert (text(stopped), ids(stopped)) == ("a b a b ", [1, 2, 3, 4, 5])


def test_log_probabilities_that_there_are_not_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no probabilities") as refused:
        answer(load(), "a b", logprobs=0)
    assert refused.value.param == "logprobs"


def test_the_context_length_counts() -> None:
    engine = load("echo?tokens=100&context_length=8")
    assert len(ids(answer(engine, "a b c"))) == 5
    with pytest.raises(ContextLengthExceeded):
        answer(engine, "a b c d e f g h")


def test_an_answer_can_be_resumed_anywhere() -> None:
    engine = load("echo?tokens=7")
    whole = answer(engine, "a b c", stop=("c a x",))
    for cut in range(len(whole)):
        scheduler = Scheduler(engine)
        asked = request("r", "a b c", stop=("c a x",))
        scheduler.add(engine.prepare(asked, {}, tuple(ids(whole[:cut]))))
        rest = run(scheduler)["r"]
        assert ids(whole[:cut]) + ids(rest) == ids(whole)
        assert text(whole[:cut]) + text(rest) == text(whole)


def test_it_takes_the_time_it_is_told_to() -> None:
    started_s = time.monotonic()
    answer(load("echo?tokens=10&tokens_per_s=100&prefill_s=0.05"), "a")
    assert 0.14 <= time.monotonic() - started_s < 0.6


@pytest.mark.parametrize("query", ["speed=3", "tokens=many", "tokens=-1", "prefill_s="])
def test_wrong_options_are_configuration_errors(query: str) -> None:
    with pytest.raises(ConfigurationError, match="echo: "):
        load(f"echo?{query}")


def test_an_unknown_engine_is_a_configuration_error() -> None:
    assert engine_names() == ("local", "echo", "remote", "foreign")
    with pytest.raises(ConfigurationError, match="'vllm' is not one of: local, echo, remote, "):
        load_engine(EngineOptions("m", engine="vllm"), lambda percent: None)


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; from workers.engines import load_engine; import workers.scheduler;"
        "from workers.engines.base import EngineOptions;"
        "load_engine(EngineOptions('echo', engine='echo'), print);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_breaks_when_told_to_and_no_request_is_blamed() -> None:
    scheduler = Scheduler(load("echo?breaks_after=4"))
    for name in ("a", "b"):
        scheduler.add(scheduler._engine.prepare(request(name, "1 2 3 4 5"), {}))
    outputs = scheduler.step() + scheduler.step()
    assert [(output.request_id, output.error) for output in outputs] == [
        ("a", None),
        ("b", None),
    ] * 2
    with pytest.raises(EngineBroken, match="4 tokens"):
        scheduler.step()
