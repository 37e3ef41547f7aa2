"""A worker whose engine is another server: a second cell of the product stands behind it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import channel, registry
from broker.errors import ErrorBody, NoLiveWorker
from broker.events import Claim, Delta, End, Event, Failed, TokenLogprob
from broker.messages import ChatMessage, GenerateRequest, SamplingParams, TextPart
from frontend.service import Service
from tests.asking import answer, ask, deltas, running, say
from tests.pictures import scene
from tests.scripted import Answer, Exchange, Scripted, scripted
from tests.stack import Process, Stack, own_stack, until

SLOW = "tokens_per_s=50&tokens=100"
SLOW_TEXT = " ".join(["word"] * 100)


@pytest.fixture
def near(stack: Stack) -> Stack:
    """The cell that people ask."""
    return stack


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Stack]:
    """The cell that computes."""
    with own_stack(tmp_path) as made:
        yield made


@pytest.fixture
def service(near: Stack) -> Iterator[Service]:
    made = Service(near.settings())
    yield made
    made.close()


def remote_worker(
    stack: Stack, upstream: str, *flags: str, wait: bool = True, **env: str
) -> Process:
    """A worker in `stack` that has the model echo of `upstream` compute."""
    names = () if "--model-name" in flags else ("--model-name", "echo")
    more = ("--engine", "remote", "--upstream", upstream, *names, *flags)
    return stack.worker(*more, wait=wait, **env)


def test_answers_come_from_the_upstream_with_its_usage(
    near: Stack, far: Stack, service: Service
) -> None:
    far.echo_worker()
    remote_worker(near, far.api())
    text, end = answer(service, ask(service, "one two three"))
    assert (text, end.finish_reason) == ("one two three", "stop")
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, 4)
    (info,) = registry.workers(near.redis)
    assert (info.engine, info.context_length, info.images) == ("remote", 8192, True)
    text, end = answer(service, ask(service, "one two three", max_tokens=2))
    assert (text, end.finish_reason) == ("one two", "length")


def test_pictures_and_probabilities_pass_through(near: Stack, far: Stack, service: Service) -> None:
    far.worker()
    remote_worker(near, far.api(), "--model-name", "shapes", "--upstream-model", "heliograph-demo")
    picture = service.pictures.add(
        scene(("circle", "red", (60, 60)), ("square", "blue", (160, 160)))
    )
    greedy = SamplingParams(temperature=0.0)
    for question, expected in (
        ("How many shapes are there?", "two"),
        ("What colour is the circle?", "red"),
    ):
        asked = service.submit("shapes", say(question, picture), greedy)
        assert expected in answer(service, asked)[0].lower()
    sampling = SamplingParams(temperature=0.0, logprobs=2)
    near_rows = logprobs(service, service.submit("shapes", say("Hello"), sampling))
    direct = Service(far.settings())
    far_rows = logprobs(direct, direct.submit("heliograph-demo", say("Hello"), sampling))
    direct.close()
    assert len(near_rows) > 3 and all(len(row.top) == 2 for row in near_rows)
    assert near_rows == far_rows[: len(near_rows)]


def logprobs(service: Service, asked: GenerateRequest) -> list[TokenLogprob]:
    events = [each for each in service.follow(asked) if isinstance(each, Delta | End)]
    return [row for each in events for row in each.logprobs]


def test_a_cancelled_request_ends_at_the_upstream(
    near: Stack, far: Stack, service: Service
) -> None:
    far.echo_worker(SLOW)
    remote_worker(near, far.api())
    asked = ask(service, "word")
    deltas(service, asked, 3)
    until(lambda: running(far) == 1, "the upstream says that it works")
    service.jobs.cancel(asked.id)
    text, end = answer(service, asked)
    assert end.finish_reason == "cancelled" and 3 <= len(text.split()) < 60
    until(lambda: running(far) == 0, "the upstream's slot is free")


def test_an_upstream_that_dies_in_mid_answer_is_waited_for(
    near: Stack, far: Stack, service: Service
) -> None:
    far.echo_worker(SLOW)
    address = far.api()
    api = far.processes[-1]
    worker = remote_worker(near, address)
    asked = ask(service, "word")
    deltas(service, asked, 5)
    api.signal(signal.SIGKILL)
    api.wait()
    until(lambda: near.info(worker) is None, "the worker takes no jobs")
    reason = f"{address.removeprefix('http://')} does not answer (ConnectError)"

    def is_told() -> bool:
        (down,) = registry.down(near.redis)
        return (down.state, down.reason) == ("unavailable", reason)

    until(is_told, "the worker tells that it cannot connect")
    with pytest.raises(NoLiveWorker):
        ask(service, "later")
    far.start("api", "frontend", "api", HELIOGRAPH_API_PORT=address.rpartition(":")[2])
    text, end = answer(service, asked)
    assert (text, end.finish_reason) == (SLOW_TEXT, "stop")
    assert len(claims(near, asked)) == 2


def claims(stack: Stack, asked: GenerateRequest) -> list[Event]:
    return [each for each in channel.read_log(stack.redis, asked.id) if isinstance(each, Claim)]


def test_a_worker_with_an_engine_goes_on_where_an_upstream_broke_off(
    near: Stack, far: Stack, service: Service
) -> None:
    far.echo_worker(SLOW)
    address = far.api()
    remote_worker(near, address)
    asked = ask(service, "word")
    deltas(service, asked, 5)
    near.echo_worker(SLOW)
    far.processes[-1].signal(signal.SIGKILL)
    text, _ = answer(service, asked)
    assert text == SLOW_TEXT
    assert len({each.worker for each in claims(near, asked) if isinstance(each, Claim)}) == 2


def test_an_upstream_goes_on_where_an_engine_broke_off(
    near: Stack, far: Stack, service: Service
) -> None:
    near.echo_worker(SLOW)
    asked = ask(service, "word")
    deltas(service, asked, 5)
    far.echo_worker(SLOW)
    remote_worker(near, far.api())
    near.processes[0].signal(signal.SIGKILL)
    assert answer(service, asked)[0] == SLOW_TEXT


MODELS = {"object": "list", "data": [{"id": "echo", "max_model_len": 4096}]}


def models(exchange: Exchange) -> None:
    exchange.reply(200, MODELS)


def event(text: str, reason: str | None = None) -> bytes:
    quoted = f'"{reason}"' if reason else "null"
    return (
        f'data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}},'
        f'"finish_reason":{quoted}}}]}}\n\n'
    ).encode()


def streams(*parts: bytes) -> Answer:
    def say_all(exchange: Exchange) -> None:
        exchange.begin()
        for part in parts:
            exchange.send(part)

    return say_all


def row(logprob: str, more: str = "") -> bytes:
    """An event of one token, with what is told of its probability."""
    told = f'{{"content":[{{"token":"a",{logprob}{more}}}]}}'
    return f'data: {{"choices":[{{"delta":{{"content":"a"}},"logprobs":{told}}}]}}\n\n'.encode()


def refuses(status: int, error: object, **headers: str) -> Answer:
    return lambda exchange: exchange.reply(status, error, **headers)


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Scripted, Service]]:
    """A scripted upstream, and a cell whose only worker has it compute."""
    folder = tmp_path_factory.mktemp("asking")
    with scripted({"/v1/models": models}) as server, own_stack(folder) as stack:
        remote_worker(stack, server.url, HELIOGRAPH_UPSTREAM_KEY="secret")
        made = Service(stack.settings())
        yield stack, server, made
        made.close()


@pytest.fixture
def upstream(asking: tuple[Stack, Scripted, Service]) -> Scripted:
    _, server, _ = asking
    server.seen.clear()
    return server


@pytest.fixture
def cell(asking: tuple[Stack, Scripted, Service]) -> Stack:
    return asking[0]


@pytest.fixture
def asker(asking: tuple[Stack, Scripted, Service]) -> Service:
    return asking[2]


CHAT = "/v1/chat/completions"


def failure(service: Service, asked: GenerateRequest) -> ErrorBody:
    *_, last = (each for each in service.follow(asked) if each is not None)
    assert isinstance(last, Failed), last
    return last.error


def test_what_the_upstream_is_asked(cell: Stack, upstream: Scripted, asker: Service) -> None:
    upstream.answers[CHAT] = streams(event("fine", "stop"), b"data: [DONE]\n\n")
    messages = [ChatMessage(role="system", content=say("Be brief.")[0].content), *say("Hello")]
    sampling = SamplingParams(max_tokens=9, temperature=0.5, seed=7, top_k=5, logprobs=0)
    asked = asker.submit("echo", messages, sampling)
    assert answer(asker, asked)[0] == "fine"
    (exchange,) = upstream.asked(CHAT)
    assert exchange.body == {
        "model": "echo",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 1.0,
        "top_k": 5,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": 7,
        "logprobs": True,
    }
    assert exchange.headers["Authorization"] == "Bearer secret"
    own = cell.redis.get("helio:cell")
    assert isinstance(own, bytes) and exchange.headers["X-Heliograph-Path"] == own.decode()


def test_a_ready_prompt_is_read_back_for_the_upstream(upstream: Scripted, asker: Service) -> None:
    upstream.answers[CHAT] = streams(event("fine", "stop"), b"data: [DONE]\n\n")
    told = TextPart(text="Be brief. USER: Hello ASSISTANT: Hi!</s>USER: And now? ASSISTANT:")
    prompt = ChatMessage(role="prompt", content=(told,))
    asked = asker.submit("echo", [prompt], SamplingParams())
    assert answer(asker, asked)[0] == "fine"
    (exchange,) = upstream.asked(CHAT)
    assert exchange.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "And now?"},
    ]
    raw = ChatMessage(role="prompt", content=(TextPart(text="Once upon a time"),))
    error = failure(asker, asker.submit("echo", [raw], SamplingParams()))
    assert (error.status, error.param) == (400, "prompt")


@pytest.mark.parametrize(
    ("told", "status", "code", "message"),
    [
        (
            refuses(400, {"error": {"message": "Too long.", "type": "invalid_request_error",
                                    "code": "context_length_exceeded", "param": "messages"}}),
            400, "context_length_exceeded", "Too long.",
        ),
        (refuses(422, {"detail": "No such field."}), 422, "upstream_error", "No such field."),
        (
            streams(event("a"), b'data: {"error":{"message":"It broke."}}\n\n'),
            502, "upstream_error", "It broke.",
        ),
        (refuses(401, {"error": {"message": "no key"}}), 502, "upstream_failed",
         "The upstream refuses this worker's API key (HTTP 401)."),
        (refuses(307, b"", Location="http://127.0.0.1:1/"), 502, "upstream_failed",
         "The upstream answers with a redirect, which is not followed."),
        (streams(event("a")), 502, "upstream_failed",
         "The upstream broke off: its answer has no end."),
        (streams(b"data: nonsense\n\n"), 502, "upstream_failed",
         "The upstream sent an event that is no JSON object."),
        (streams(b'data: {"choices":[7]}\n\n'), 502, "upstream_failed",
         "The upstream sent an event of another form."),
        (refuses(500, b"\xff\x00 oops"), 502, "upstream_failed",
         "The upstream answered HTTP 500: \ufffd\x00 oops"),
        (refuses(400, b'{"error": {"message": "Half \\ud83d.", "code": "\\ude00"}}'),
         400, "\ufffd", "Half \ufffd."),
        (streams(b"data: " + b"[" * 100_000 + b"\n\n"), 502, "upstream_failed",
         "The upstream sent an event that is no JSON object."),
        (streams(row('"logprob": NaN')), 502, "upstream_failed",
         "The upstream sent an event of another form."),
        (streams(row('"logprob": -1e999')), 502, "upstream_failed",
         "The upstream sent an event of another form."),
    ],
)  # fmt: skip
def test_errors_of_the_upstream_are_told_once(
    upstream: Scripted, asker: Service,
    told: Answer, status: int, code: str, message: str,
) -> None:  # fmt: skip
    upstream.answers[CHAT] = told
    error = failure(asker, ask(asker, "word"))
    assert (error.status, error.code, error.message) == (status, code, message)


def test_half_a_character_is_replaced_and_harms_nobody(upstream: Scripted, asker: Service) -> None:
    upstream.answers[CHAT] = streams(event("a\\ud83d"), event("b", "stop"), b"data: [DONE]\n\n")
    for _ in range(2):
        assert answer(asker, ask(asker, "word"))[0] == "a\ufffdb"


def test_numbers_that_are_none_are_not_believed(upstream: Scripted, asker: Service) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1e999,"completion_tokens":9}}\n\n'
    first = row('"logprob":-0.5', ',"bytes":3000000000')
    upstream.answers[CHAT] = streams(first, event("b", "stop"), usage, b"data: [DONE]\n\n")
    asked = asker.submit("echo", say("Hello"), SamplingParams(logprobs=0))
    events = [each for each in asker.follow(asked) if isinstance(each, Delta | End)]
    assert "".join(each.text for each in events) == "ab"
    assert [probable.token for each in events for probable in each.logprobs] == [b"a"]
    assert isinstance(events[-1], End) and events[-1].usage.completion_tokens == 2


def test_a_refusal_without_end_is_not_read_to_its_end(upstream: Scripted, asker: Service) -> None:
    left = threading.Event()

    def refuses_for_ever(exchange: Exchange) -> None:
        exchange.begin(status=400)
        try:
            while True:
                exchange.send(b"no " * 2**15)
        finally:
            left.set()

    upstream.answers[CHAT] = refuses_for_ever
    error = failure(asker, ask(asker, "word"))
    assert (error.status, error.code, error.message) == (400, "upstream_error", "no " * 166 + "no")
    assert left.wait(10)


def test_a_full_upstream_is_asked_again(cell: Stack, upstream: Scripted, asker: Service) -> None:
    def full_twice(exchange: Exchange) -> None:
        if len(upstream.asked(CHAT)) < 3:
            exchange.reply(429, {"error": {"message": "full"}}, Retry_After="0.1")
        else:
            streams(event("at last", "stop"), b"data: [DONE]\n\n")(exchange)

    upstream.answers[CHAT] = full_twice
    asked = ask(asker, "word")
    assert answer(asker, asked)[0] == "at last"
    assert len(upstream.asked(CHAT)) == 3 and len(claims(cell, asked)) == 1


def test_an_answer_that_comes_out_differently_is_not_glued_together(
    cell: Stack, upstream: Scripted, asker: Service
) -> None:
    def changes_its_mind(exchange: Exchange) -> None:
        streams(event("yes" if len(upstream.asked(CHAT)) == 1 else "no"))(exchange)

    upstream.answers[CHAT] = changes_its_mind
    asked = ask(asker, "word")
    assert failure(asker, asked).code == "answer_differs"
    log = channel.read_log(cell.redis, asked.id)
    assert "".join(each.text for each in log if isinstance(each, Delta | End)) == "yes"


def test_a_model_that_the_upstream_does_not_have_is_said(near: Stack, upstream: Scripted) -> None:
    remote_worker(near, upstream.url, "--model-name", "other", wait=False)
    down = until(lambda: registry.down(near.redis), "the worker says what it misses")
    where = upstream.url.removeprefix("http://")
    until(
        lambda: (
            registry.down(near.redis)[0].reason
            == f"{where} does not serve 'other'; it serves: echo"
        ),
        f"the reason is told: {down}",
    )
