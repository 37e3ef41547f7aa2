"""Another Heliograph as a foreign worker: real answers about real pictures, over all dialects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from broker import cell, foreign, images
from broker.addresses import AllowList
from broker.events import End, Failed
from broker.foreign import ForeignWorker
from broker.messages import ChatMessage, GenerateRequest, ImagePart, SamplingParams, TextPart
from frontend.service import Service
from tests.asking import answer
from tests.stack import Stack, own_stack, until
from tests.workers.foreign_stack import message, request
from tests.workers.test_bridge import await_model, bridge
from workers.engines.foreign.dialects import Dialect, write
from workers.engines.foreign.exchange import converse
from workers.outbound import open_client

DEMO = "heliograph-demo"
QUESTION = "What color is the circle?"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with own_stack(tmp_path_factory.mktemp("parent")) as made:
        yield made


@pytest.fixture(scope="module")
def child(demo_stack: Stack) -> str:
    """Address of a cell with the demo model."""
    return demo_stack.api()


def about(sha256: str) -> tuple[ChatMessage, ...]:
    return (message("user", QUESTION, sha256),)


async def converse_with(address: str, dialect: Dialect, asked: GenerateRequest, data: bytes) -> str:
    pictures = {images.digest(data): data}
    async with open_client(AllowList(), 30.0) as client:
        call = await write(dialect, asked, pictures, 10**7)
        async with aclosing(converse(client, address, call, ())) as pieces:
            told = [piece async for piece in pieces]
    assert told[-1].finish_reason == "stop"
    return "".join(piece.text for piece in told)


@pytest.mark.parametrize("dialect", ["llava", "internvl", "fastchat"])
def test_a_real_worker_answers_about_a_picture_in_each_dialect(
    child: str, red_circle: bytes, dialect: Dialect
) -> None:
    asked = request(about(images.digest(red_circle)), DEMO, temperature=0.0, max_tokens=40)
    assert "red" in asyncio.run(converse_with(child, dialect, asked, red_circle)).lower()


def test_a_ready_prompt_goes_through_two_cells(child: str, red_circle: bytes) -> None:
    parts = (
        TextPart(text="USER: "),
        ImagePart(sha256=images.digest(red_circle)),
        TextPart(text=f"\n{QUESTION} ASSISTANT:"),
    )
    asked = request((ChatMessage(role="prompt", content=parts),), DEMO, max_tokens=40)
    assert asyncio.run(converse_with(child, "llava", asked, red_circle))


@pytest.fixture(scope="module")
def service(parent: Stack) -> Iterator[Service]:
    made = Service(parent.settings())
    yield made
    made.close()


def join(parent: Stack, child: str) -> None:
    """Register the child, which does not say what it serves; once for all tests."""
    if not parent.processes:
        bridge(parent)
        foreign.register(parent.redis, ForeignWorker(address=child, heartbeats=False))


def ask(service: Service, picture: bytes) -> tuple[str, End]:
    sampling = SamplingParams(temperature=0.0, max_tokens=40)
    messages = list(about(service.pictures.add(picture)))
    return answer(service, service.submit(DEMO, messages, sampling))


def test_a_cell_that_registered_serves_the_parents_users(
    parent: Stack, child: str, demo_stack: Stack, service: Service, red_circle: bytes
) -> None:
    join(parent, child)
    own = Service(demo_stack.settings())
    (info,) = own.fleet.workers()
    await_model(parent, DEMO, info.slots)
    text, end = ask(service, red_circle)
    same, direct = ask(own, red_circle)
    assert text == same and "red" in text.lower()
    assert end.usage.prompt_tokens == direct.usage.prompt_tokens
    assert end.usage.completion_tokens == direct.usage.completion_tokens
    own.close()


def test_a_ready_prompt_goes_through_to_a_cell(
    parent: Stack, child: str, service: Service, red_circle: bytes
) -> None:
    join(parent, child)
    until(lambda: service.fleet.models(), "the model is served", 60)
    parts = (
        TextPart(text="USER: "),
        ImagePart(sha256=service.pictures.add(red_circle)),
        TextPart(text=f"\n{QUESTION} ASSISTANT:"),
    )
    prompt = [ChatMessage(role="prompt", content=parts)]
    sampling = SamplingParams(temperature=0.0, max_tokens=3)
    text, end = answer(service, service.submit(DEMO, prompt, sampling))
    assert text and end.usage.completion_tokens <= 3
    assert end.usage.prompt_tokens > 16


def test_a_request_is_not_sent_back_to_the_cell_it_came_from(
    parent: Stack, child: str, demo_stack: Stack, service: Service
) -> None:
    join(parent, child)
    until(lambda: service.fleet.models(), "the model is served", 60)
    came = (cell.cell_id(demo_stack.redis),)
    hello = [message("user", "Hello")]
    asked = service.submit(DEMO, hello, SamplingParams(max_tokens=5), path=came)
    events = [event for event in service.follow(asked) if event]
    assert isinstance(events[-1], Failed)
    assert (events[-1].error.status, events[-1].error.code) == (508, "loop_detected")
