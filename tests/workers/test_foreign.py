"""Foreign workers as an upstream, against stand-ins that speak the originals' wire."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from broker import cell, foreign, images, keys
from broker.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    LoopDetected,
    UpstreamFailed,
    WorkerFailed,
)
from broker.messages import ChatMessage, ImagePart, TextPart
from tests.pictures import scene
from tests.stack import Stack, free_port, own_stack, until
from tests.workers.foreign_stack import (
    MODEL,
    Foreign,
    StandIn,
    ask,
    message,
    register,
    request,
    start,
)
from workers.engines.foreign import fleet

INTERNVL = "InternVL2-8B"
VICUNA = "smollm2"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with own_stack(tmp_path_factory.mktemp("foreign")) as made:
        yield made


@pytest.fixture
def stack(shared: Stack) -> Iterator[Stack]:
    """A stack whose foreign workers end with the test."""
    yield shared
    for worker in foreign.workers(shared.redis):
        foreign.withdraw(shared.redis, worker.address)
    for process in shared.processes:
        process.stop()
    shared.processes.clear()


@pytest.fixture
def made(stack: Stack) -> Iterator[Callable[..., Foreign]]:
    engines: list[Foreign] = []

    def make(model: str = MODEL, **options: Any) -> Foreign:
        engines.append(Foreign(stack, model, **options))
        until(lambda: not engines[-1].check()._examinations, "all workers were asked")
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def test_llava_gets_its_prompt_and_the_answer_comes_in_deltas(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    worker = start(stack)
    told = made().ask(ask("Blue, green and  red.", temperature=0.2, top_p=0.7, max_tokens=64))
    assert told.text == "Blue, green and  red."
    assert (told.reason, told.tokens, told.usage) == ("stop", 4, None)
    assert [piece.text for piece in told.pieces if piece.text] == [
        "Blue,",
        " green",
        " and",
        "  red.",
    ]
    (payload,) = worker.seen()["payloads"]
    path = payload.pop("heliograph_path")
    assert payload == {
        "model": MODEL,
        "prompt": "A chat between a curious human and an artificial intelligence assistant. The "
        "assistant gives helpful, detailed, and polite answers to the human's questions. "
        "USER: SAY[Blue, green and  red.] ASSISTANT:",
        "temperature": 0.2,
        "top_p": 0.7,
        "max_new_tokens": 64,
        "stop": "</s>",
        "images": [],
    }
    assert path == [cell.cell_id(stack.redis)]
    assert worker.seen()["paths"] == path


def test_llava_gets_pictures_upright_in_rgb_and_in_the_order_of_their_marks(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    worker = start(stack)
    red, blue = scene(("circle", "red", (112, 112))), scene(("circle", "blue", (112, 112)))
    shas = images.digest(red), images.digest(blue)
    asked = request((message("user", "SAY[Two:] <image>", *shas),), image_process_mode="Resize")
    told = made().ask(asked, dict(zip(shas, (red, blue), strict=True)))
    first, second = told.text.removeprefix("Two: ").split(" PNG ")
    assert first.startswith("PNG RGB (336, 336)") and second.startswith("RGB (336, 336)")
    (payload,) = worker.seen()["payloads"]
    assert payload["prompt"].endswith("USER: <image>\n<image>\nSAY[Two:] <image > ASSISTANT:")
    assert len(payload["images"]) == 2 and payload["images"][0] != payload["images"][1]
    assert base64.b64decode(payload["images"][0]).startswith(b"\x89PNG")


def test_an_answer_of_the_length_that_was_asked_for_ended_by_it(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    start(stack)
    engine = made()
    assert engine.ask(ask("a b c d", max_tokens=3)).reason == "length"
    assert engine.ask(ask("a b c", max_tokens=4)).reason == "stop"
    assert engine.ask(ask("a b c d", max_tokens=3)).text == "a b c"


def test_the_requests_own_stop_strings_end_the_answer_and_the_connection(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    worker = start(stack, pace=0.05)
    told = made().ask(ask("one two three " + "more " * 200, stop=["o three"]))
    assert (told.text, told.reason) == ("one tw", "stop")
    until(lambda: worker.seen()["broken_off"] == 1, "the worker noticed")


def test_internvl_gets_roles_tiles_and_penalty(stack: Stack, made: Callable[..., Foreign]) -> None:
    worker = start(stack, INTERNVL, kind="internvl")
    red = scene(("circle", "red", (112, 112)))
    sha = images.digest(red)
    messages = (
        message("system", "Be brief."),
        message("user", "Hello", sha),
        message("assistant", "Yes?"),
        message("user", "SAY[A circle. ]"),
    )
    told = made(INTERNVL).ask(request(messages, INTERNVL, max_tokens=50), {sha: red})
    assert told.text.startswith("A circle.  PNG RGB (224, 224)")
    (payload,) = worker.seen()["payloads"]
    picture = payload["prompt"][1].pop("image")
    assert len(picture) == 1 and base64.b64decode(picture[0]).startswith(b"\x89PNG")
    del payload["heliograph_path"]
    assert payload == {
        "model": INTERNVL,
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "SAY[A circle. ]"},
        ],
        "temperature": 1.0,
        "top_p": 1.0,
        "max_new_tokens": 50,
        "max_input_tiles": 12,
        "repetition_penalty": 1.0,
    }


def test_internvl_refuses_what_it_cannot_be_sent(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    start(stack, INTERNVL, kind="internvl")
    engine = made(INTERNVL)
    ready = request((message("prompt", "Once upon a time"),), INTERNVL)
    with pytest.raises(InvalidRequest, match="in no known template's form"):
        engine.ask(ready)
    twice = request((message("user", "a"), message("user", "b")), INTERNVL)
    with pytest.raises(InvalidRequest, match="user and assistant messages in turn"):
        engine.ask(twice)
    assert engine.engine.trouble == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", 1),
        ("logit_bias", {5: 1.0}),
        ("min_tokens", 3),
        ("ignore_eos", True),
        ("stop_token_ids", [2]),
    ],
)
def test_what_would_change_the_answer_and_cannot_be_sent_is_refused(
    stack: Stack, made: Callable[..., Foreign], name: str, value: object
) -> None:
    worker = start(stack)
    with pytest.raises(InvalidRequest, match=f"cannot do {name}") as raised:
        made().ask(ask("x", **{name: value}))
    assert raised.value.param == name
    assert worker.seen()["payloads"] == []


def test_fastchat_gets_its_own_template_and_its_usage_is_told(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    worker = start(stack, VICUNA, kind="fastchat", fastchat=True)
    engine = made(VICUNA)
    assert (engine.engine.context_length, engine.engine.images) == (100, False)
    told = engine.ask(ask("one two three", VICUNA, max_tokens=10, stop=["###"]))
    assert (told.text, told.reason, told.tokens) == ("one two three", "stop", 3)
    assert told.usage is not None
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (7, 3)
    (payload,) = worker.seen()["payloads"]
    assert payload["prompt"] == "Be kind.\nHUMAN: SAY[one two three]\nBOT:"
    assert payload["stop"] == ["\nHUMAN", "###"]
    assert (payload["max_new_tokens"], payload["echo"], payload["top_k"]) == (10, False, -1)
    assert engine.ask(ask("one two three", VICUNA, max_tokens=2)).reason == "length"


def test_fastchat_is_recognised_and_its_prompt_is_never_cut(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    worker = start(stack, VICUNA, kind="fastchat", fastchat=False)
    assert stack.redis.ttl(keys.foreign_worker(worker.address)) in (34, 35)
    engine = made(VICUNA)
    assert stack.redis.ttl(keys.foreign_worker(worker.address)) in (99, 100)
    assert foreign.beat(stack.redis, worker.address, 0)
    assert stack.redis.ttl(keys.foreign_worker(worker.address)) in (99, 100)
    engine.ask(ask("word " * 50, VICUNA))
    (payload,) = worker.seen()["payloads"]
    assert payload["max_new_tokens"] == 100 - len(payload["prompt"].split()) - 1
    with pytest.raises(ContextLengthExceeded, match=r"has 1\d\d tokens, and the model holds 100"):
        engine.ask(ask("word " * 100, VICUNA))


def test_what_is_told_of_a_worker_does_not_change_how_long_it_stays(stack: Stack) -> None:
    worker = f"http://127.0.0.1:{free_port()}"
    register(stack, worker, heartbeats=False)
    foreign.tell_fastchat(stack.redis, worker)
    foreign.tell_models(stack.redis, worker, ("a", "b"))
    (found,) = foreign.workers(stack.redis)
    assert (found.models, found.fastchat) == (("a", "b"), True)
    assert stack.redis.ttl(keys.foreign_worker(worker)) == -1
    foreign.withdraw(stack.redis, worker)
    foreign.tell_fastchat(stack.redis, worker)
    foreign.tell_models(stack.redis, worker, ("a", "b"))
    assert stack.redis.exists(keys.foreign_worker(worker)) == 0


def test_a_ready_prompt_goes_as_it_is(stack: Stack, made: Callable[..., Foreign]) -> None:
    worker = start(stack)
    red = scene(("circle", "red", (112, 112)))
    sha = images.digest(red)
    parts = (TextPart(text="### <x> "), ImagePart(sha256=sha), TextPart(text="\nSAY[hm] B:"))
    asked = request((ChatMessage(role="prompt", content=parts),), stop=["###"])
    assert made().ask(asked, {sha: red}).text.startswith("hm PNG RGB (224, 224)")
    (payload,) = worker.seen()["payloads"]
    assert (payload["prompt"], payload["stop"]) == ("### <x> <image>\nSAY[hm] B:", "###")


def test_a_ready_prompt_of_another_template_is_written_anew(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    """LLaVA's page and FastChat's server write for a model name that they do not know."""
    prompt = message("prompt", "Be brief. USER: Hi ASSISTANT: Hello!</s>USER: SAY[x] ASSISTANT:")
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "SAY[x]")]
    for model, kind in ((INTERNVL, "internvl"), (VICUNA, "fastchat"), ("llava-mpt", "llava")):
        worker = start(stack, model, kind=kind, fastchat=kind == "fastchat")
        told = made(model).ask(request((prompt,), model, stop=["</s>"]))
        assert told.text == "x"
        (payload,) = worker.seen()["payloads"]
        if kind == "internvl":
            assert [(row["role"], row["content"]) for row in payload["prompt"]] == turns
        else:
            assert "SAY[x]" in payload["prompt"] and "Be brief." in payload["prompt"]
            assert "USER:" not in payload["prompt"]


def test_a_wrong_guess_is_put_right_once_and_remembered(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    worker = start(stack, INTERNVL, kind="llava")
    engine = made(INTERNVL)
    assert engine.ask(ask("first", INTERNVL)).text == "first"
    assert engine.ask(ask("second", INTERNVL)).text == "second"
    shapes = [type(payload["prompt"]).__name__ for payload in worker.seen()["payloads"]]
    assert shapes == ["list", "str", "str"]


@pytest.mark.parametrize("behave", ["repeating", "stripping", "partial"])
def test_text_that_repeats_or_is_taken_back_before_it_is_told_stays_exact(
    stack: Stack, made: Callable[..., Foreign], behave: str
) -> None:
    start(stack, behave=behave)
    told = made().ask(ask("All of  it, <b>here</b>."))
    assert (told.text, told.reason) == ("All of  it, <b>here</b>.", "stop")


def test_told_text_that_is_taken_back_fails_the_request_clearly(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    start(stack, behave="takeback")
    engine = made()
    with pytest.raises(WorkerFailed, match="took back a part of its answer"):
        engine.ask(ask("Hello world"))
    assert engine.engine.trouble == ""


FAILURES = {
    "cut": "closed the connection in the middle of an answer",
    "unfinished": "ended its answer in the middle of a word",
    "empty": "ended its answer without a word",
    "gzipped": "sent something else than frames with a text",
    "wordless": "sent something else than frames with a text",
    "html": "sent something else than frames with a text",
    "undecodable": "sent something else than frames with a text",
    "mistyped": "sent a frame with fields of wrong types",
    "huge": "sent more than 4,194,304 bytes at a time",
    "redirecting": "answered with a redirect, which is not followed",
    "broken": "answered with HTTP status 500",
    "networkless": "answered with error code 3",
    "endless": "far over the limit",
}


@pytest.mark.parametrize("behave", FAILURES)
def test_a_worker_that_fails_is_named_and_left_alone_until_it_answers(
    stack: Stack, made: Callable[..., Foreign], behave: str
) -> None:
    start(stack, behave=behave)
    engine = made()
    with pytest.raises(UpstreamFailed, match=FAILURES[behave]):
        engine.ask(ask("a b c d e", max_tokens=8))
    assert FAILURES[behave] in engine.engine.trouble and engine.engine.slots == 0
    with pytest.raises(UpstreamFailed, match=r"No worker of model .* answers"):
        engine.ask(ask("x"))
    until(lambda: engine.check().trouble == "", "it was asked again")
    assert engine.engine.slots == 5


def test_a_silent_worker_is_given_up(stack: Stack, made: Callable[..., Foreign]) -> None:
    start(stack, behave="silent")
    with pytest.raises(UpstreamFailed, match="did not answer in time"):
        made(silence_s=0.3).ask(ask("x"))


def test_a_slow_worker_is_waited_for(stack: Stack, made: Callable[..., Foreign]) -> None:
    start(stack, delay=1.5)
    assert made().ask(ask("patience")).text == "patience"


def test_a_prompt_that_is_too_long_for_llava_is_no_answer(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    start(stack, behave="exceeding")
    with pytest.raises(ContextLengthExceeded, match="longer than the model can hold"):
        made().ask(ask("x"))


def test_an_exception_is_tried_elsewhere_and_told_when_all_have_it(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    workers = [start(stack, behave="failing") for _ in range(2)]
    engine = made()
    asked = ask("x")
    with pytest.raises(UpstreamFailed, match="failed to compute the answer"):
        engine.ask(asked)
    with pytest.raises(WorkerFailed, match=r"Every worker .*\*\*NETWORK ERROR DUE TO"):
        engine.ask(asked)
    # Once in each of the two dialects that it may have spoken.
    assert [len(worker.seen()["payloads"]) for worker in workers] == [2, 2]
    assert engine.engine.trouble == ""


def test_a_request_that_failed_goes_elsewhere(stack: Stack, made: Callable[..., Foreign]) -> None:
    bad = start(stack, behave="cut")
    good = StandIn(stack)
    engine = made()
    asked = ask("one two three four five")
    with pytest.raises(UpstreamFailed, match="closed the connection"):
        engine.ask(asked)
    register(stack, good)
    until(lambda: engine.check().slots == 10, "both answer")
    assert engine.ask(asked).text == "one two three four five"
    assert (len(bad.seen()["payloads"]), len(good.seen()["payloads"])) == (1, 1)


def test_a_workers_limit_is_never_exceeded(stack: Stack, made: Callable[..., Foreign]) -> None:
    workers = [start(stack, limit=2, pace=0.01) for _ in range(2)]
    engine = made(slots=2)
    assert engine.engine.slots == 4

    async def all_at_once() -> list[Any]:
        asked = [engine.stream(ask(f"answer {n} of many"), {}) for n in range(24)]
        return await asyncio.gather(*asked)

    told = engine.run(all_at_once())
    assert [each.text for each in told] == [f"answer {n} of many" for n in range(24)]
    seen = [worker.seen() for worker in workers]
    assert [each["most_parallel"] for each in seen] == [2, 2]
    assert sum(len(each["payloads"]) for each in seen) == 24


def test_what_others_send_to_a_worker_counts(stack: Stack, made: Callable[..., Foreign]) -> None:
    busy, idle = start(stack, queue_length=5), start(stack)
    engine = made()
    assert engine.engine.slots == 5
    for n in range(4):
        engine.ask(ask(f"answer {n}"))
    assert (len(busy.seen()["payloads"]), len(idle.seen()["payloads"])) == (0, 4)


def test_a_request_does_not_wait_for_ever_for_what_others_keep(
    stack: Stack, made: Callable[..., Foreign], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "ROOM_S", 0.2)
    worker = start(stack, queue_length=5)
    engine = made()

    async def ask_and_look_after() -> Any:
        asked = asyncio.create_task(engine.stream(ask("x"), {}))
        while not asked.done():
            await engine.engine.check()
        return await asked

    with pytest.raises(UpstreamFailed, match=f"No worker of model '{MODEL}' had room within"):
        engine.run(ask_and_look_after())
    assert worker.seen()["payloads"] == []


def test_the_faster_worker_gets_more(stack: Stack, made: Callable[..., Foreign]) -> None:
    fast, slow = start(stack, pace=0.002), start(stack, pace=0.05)
    engine = made()
    text = " ".join(["word"] * 12)

    async def one_after_another(count: int) -> None:
        for _ in range(count):
            await engine.stream(ask(text), {})

    # Until both are measured it is drawn by lot.
    engine.run(one_after_another(30))
    assert len(fast.seen()["payloads"]) > len(slow.seen()["payloads"])
    speeds = {each.address: each.speed for each in engine.engine._fleet.members}
    assert speeds[fast.address] > 3 * speeds[slow.address] > 0


@pytest.mark.parametrize("method", ["lottery", "shortest_queue"])
def test_only_a_lottery_gives_the_slower_of_two_idle_workers_its_share(
    stack: Stack, made: Callable[..., Foreign], method: str
) -> None:
    start(stack, pace=0.01)
    slow = start(stack, pace=0.04)
    engine = made(HELIOGRAPH_DISPATCH_METHOD=method)
    asked = ask("a few words to measure")
    until(
        lambda: engine.ask(asked) and all(each.speed for each in engine.engine._fleet.members),
        "both are measured",
    )
    before = len(slow.seen()["payloads"])
    for _ in range(60):
        engine.ask(asked)
    assert (len(slow.seen()["payloads"]) > before) == (method == "lottery")


def test_closing_the_answer_closes_the_connection(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    worker = start(stack, pace=0.05)
    engine = made()

    async def leave_early() -> str:
        asked = ask("word " * 500).model_copy(update={"path": (engine.cell,)})
        async with aclosing(engine.engine.stream(asked, {})) as pieces:
            async for piece in pieces:
                if piece.text:
                    return piece.text
        return ""

    assert engine.run(leave_early()) == "word"
    until(lambda: worker.seen()["parallel"] == 0, "the worker is free")
    assert engine.engine._fleet.members[0].running == 0


def test_a_worker_that_is_gone_or_serves_something_else_is_not_asked(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    register(stack, f"http://127.0.0.1:{free_port()}")
    other = StandIn(stack, model="another")
    register(stack, other)
    engine = made()
    assert "cannot be connected to" in engine.engine.trouble
    assert "does not serve llava-v1.5-7b any more" in engine.engine.trouble
    for worker in foreign.workers(stack.redis):
        foreign.withdraw(stack.redis, worker.address)
    assert engine.check().trouble == "no foreign worker of llava-v1.5-7b is registered"


def test_a_worker_that_registers_for_another_model_ends_its_answers_of_the_first(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    worker = start(stack, pace=0.02)
    engine = made()
    text = " ".join(["word"] * 20)

    async def change_meanwhile() -> Any:
        answer = asyncio.create_task(engine.stream(ask(text), {}))
        while not engine.engine._fleet.members[0].running:
            await asyncio.sleep(0)
        register(stack, worker, "another")
        await engine.engine.check()
        assert engine.engine.trouble == f"no foreign worker of {MODEL} is registered"
        return await answer

    assert engine.run(change_meanwhile()).text == text
    with pytest.raises(UpstreamFailed, match="No worker of model"):
        engine.ask(ask("x"))


def test_a_cell_is_not_its_own_worker(stack: Stack, made: Callable[..., Foreign]) -> None:
    start(stack, cell=cell.cell_id(stack.redis))
    assert "is this cell itself" in made().engine.trouble


def test_a_request_does_not_go_back_to_a_cell_it_came_through(
    stack: Stack, made: Callable[..., Foreign]
) -> None:
    worker = start(stack, cell="abc123")
    engine = made()
    with pytest.raises(LoopDetected, match="connected in a circle"):
        engine.ask(ask("x", path=("abc123",)))
    assert worker.seen()["payloads"] == []


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "0.0.0.0", "[fe80::1]"])
def test_addresses_that_are_not_allowed_are_not_connected_to(
    stack: Stack, made: Callable[..., Foreign], host: str
) -> None:
    register(stack, f"http://{host}:80")
    assert "is not an address that may be called from here" in made().engine.trouble


def test_a_name_that_comes_to_stand_for_another_address_is_not_followed(
    stack: Stack, made: Callable[..., Foreign], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name resolution belongs to the machine, so it is what is replaced here."""
    worker = StandIn(stack)
    register(stack, f"http://worker.test:{worker.port}")
    addresses = ["127.0.0.1"]
    resolve = socket.getaddrinfo

    def resolved(host: Any, *args: Any, **kwargs: Any) -> Any:
        return resolve(addresses[0] if host == "worker.test" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    assert "is not an address that may be called" in made().engine.trouble
    engine = made(HELIOGRAPH_WORKER_ADDRESSES="127.0.0.0/8")
    assert engine.ask(ask("here")).text == "here"
    addresses[0] = "169.254.169.254"
    with pytest.raises(UpstreamFailed, match="is not an address that may be called"):
        engine.ask(ask("there"))
    assert len(worker.seen()["payloads"]) == 1
