"""Whatever is sent: it is answered, or refused in time with a reason, and nothing else suffers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import pytest

from broker import keys
from tests.chaos import files, raw
from tests.chaos.meanwhile import meanwhile
from tests.chaos.test_slow_readers import server
from tests.frontend.clients import body, data_uri, image_message
from tests.stack import Stack

MUTANTS_PER_RUN = 200
PARALLEL = 20
MAX_GROWTH_BYTES = 100 * 2**20
MAX_DECODED_BYTES = 400 * 2**20
"""Pictures that are accepted have to be decoded: one of 25 million pixels takes 100 MB."""
DEMO = "heliograph-demo"

pytestmark = pytest.mark.timeout(1800)


def nested(before: bytes, after: bytes, depth: int = 10_000) -> bytes:
    """A request with deep brackets in a field that is not known."""
    return b'{"extra":' + before * depth + b"1" + after * depth + b"," + VALID[1:]


def turn(content: str) -> bytes:
    """A request whose only message has this JSON as its content."""
    return b'{"model":"echo","messages":[{"role":"user","content":' + content.encode() + b"}]}"


VALID = json.dumps(body("hello wide world", max_tokens=50, temperature=0.5)).encode()
MALFORMED = {
    "nothing": b"",
    "cut": VALID[:-2],
    "trailing comma": VALID[:-1] + b",}",
    "two objects": VALID + VALID,
    "NUL behind it": VALID + b"\0",
    "NUL in a text": VALID.replace(b"wide", b"wi\0de"),
    "NaN": VALID.replace(b"0.5", b"NaN"),
    "infinity": VALID.replace(b"0.5", b"1e999"),
    "a million digits": VALID.replace(b"50", b"5" * 1_000_000),
    "a million messages": json.dumps(body() | {"messages": [{}] * 1_000_000}).encode(),
    "a hundred thousand parts": turn(json.dumps([{"type": "text", "text": "x"}] * 100_000)),
    "depth in lists": nested(b"[", b"]"),
    "depth in objects": nested(b'{"a":', b"}"),
    "depth in a message": turn("[" * 10_000 + "]" * 10_000),
    "invalid UTF-8": VALID.replace(b"wide", b"\xc3\x28"),
    "overlong UTF-8": VALID.replace(b"wide", b"\xc0\xaf"),
    "raw surrogate": VALID.replace(b"wide", b"\xed\xa0\x80"),
    "lone surrogate": VALID.replace(b"wide", rb"\ud800"),
    "swapped surrogates": VALID.replace(b"wide", rb"\udc00\ud800"),
    "UTF-16": VALID.decode().encode("utf-16"),
    "text for a number": VALID.replace(b"50", b'"50"'),
    "number for a text": turn("5"),
    "list for an object": turn("[[]]"),
}
TOO_MANY = {"a million messages": (413, "request_too_large")}


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    return echo_stack.api()


@pytest.fixture(scope="module")
def demo(demo_stack: Stack) -> str:
    return demo_stack.api()


def jobs(stack: Stack) -> int:
    """Jobs that were ever submitted."""
    return sum(key.count(b":") == 2 for key in stack.redis.scan_iter(keys.job("*")))


def nothing_broke(stack: Stack) -> None:
    """No process has ended, lost the child that serves, or logged a traceback."""
    for process in stack.processes:
        assert process.status is None
        assert "Worker (pid:" not in process.output  # what gunicorn says of a child that ended
        assert "Traceback" not in process.output


def test_malformed_requests(echo_stack: Stack, address: str, report: Callable[[str], None]) -> None:
    before = jobs(echo_stack)
    replies = {name: raw.post(address, sent) for name, sent in MALFORMED.items()}
    report(
        f"malformed requests: {len(replies)} kinds, slowest refusal "
        f"{raw.slowest_s(replies.values()):.2f} s"
    )
    for name, reply in replies.items():
        status, code = TOO_MANY.get(name, (400, "invalid_request"))
        assert (reply.status, reply.error["code"]) == (status, code), (name, reply)
        assert reply.took_s <= 1.0, name
    assert jobs(echo_stack) == before
    nothing_broke(echo_stack)


def mutant(dice: random.Random) -> bytes:
    """A valid request with some of its bytes changed, dropped, or said twice."""
    data = bytearray(VALID)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at, length = dice.randrange(len(data)), dice.choice((0, 1, 1, 8))
        put = dice.choice((b"", dice.randbytes(1), dice.randbytes(4), bytes(data[at : at + 20])))
        data[at : at + length] = put
    return bytes(data)


def test_mutated_requests(
    echo_stack: Stack, address: str, report: Callable[[str], None], runs: int
) -> None:
    dice = random.Random(28)
    before = jobs(echo_stack)
    replies = [raw.post(address, mutant(dice)) for _ in range(MUTANTS_PER_RUN * runs)]
    answered = sum(reply.status == 200 for reply in replies)
    report(
        f"mutated requests: {len(replies)} sent, {answered} answered, the rest refused, slowest "
        f"{raw.slowest_s(replies):.2f} s"
    )
    assert 0 < answered < len(replies) / 2
    assert {reply.status for reply in replies} == {200, 400, 404}
    assert raw.slowest_s(replies) <= 1.0
    assert jobs(echo_stack) - before == answered, "the worker never saw what was refused"
    nothing_broke(echo_stack)


def looking(data: bytes, model: str = "echo", kind: str = "jpeg") -> bytes:
    """A request that shows a file, as a JPEG whatever it is."""
    content = image_message(data_uri(data, kind), text="What is in the picture?")
    return json.dumps(body(model=model, messages=content, temperature=0, max_tokens=60)).encode()


UNREADABLE = (400, "invalid_image", "damaged, or not one of JPEG, PNG, WEBP, GIF")
REASONS = {
    "long thread": (413, "request_too_large", "20000 x 1 pixels"),
    "short thread": (400, "invalid_image", "at most 200 times the shorter"),
}


def test_broken_pictures(
    demo_stack: Stack, demo: str, report: Callable[[str], None], runs: int
) -> None:
    corpus = files.broken()
    before = jobs(demo_stack)
    replies = [
        (name, raw.post(demo, looking(data, DEMO)))
        for _ in range(runs)
        for name, data in corpus.items()
    ]
    report(
        f"broken pictures: {len(corpus)} files x {runs}, all refused, slowest "
        f"{raw.slowest_s(reply for _, reply in replies):.2f} s"
    )
    for name, reply in replies:
        status, code, reason = REASONS.get(name, UNREADABLE)
        assert (reply.status, reply.error["code"]) == (status, code), (name, reply)
        assert reason in reply.error["message"], (name, reply)
        assert reply.took_s <= 2.0, name
    assert jobs(demo_stack) == before
    nothing_broke(demo_stack)


def test_one_scene_in_every_form(
    demo_stack: Stack, demo: str, report: Callable[[str], None], runs: int
) -> None:
    reference = raw.post(demo, looking(files.SCENE, DEMO)).text
    assert "red circle" in reference and "blue square" in reference
    forms = files.same_scene()
    for _ in range(runs):
        for name, data in forms.items():
            reply = raw.post(demo, looking(data, DEMO))
            assert (reply.status, reply.text) == (200, reference), name
    report(f"one scene in {len(forms)} forms x {runs}: {len(forms) * runs} answers are the same")
    assert raw.post(demo, looking(files.png((1, 1)), DEMO)).status == 200
    nothing_broke(demo_stack)


@dataclass
class Growth:
    """By how much the memory of some processes grew at most, all together."""

    at_most: int = 0


@contextmanager
def watching(*processes: psutil.Process) -> Iterator[Growth]:
    """Look at the memory of each process a hundred times a second meanwhile."""
    growth = Growth()
    before = [process.memory_info().rss for process in processes]

    def watch() -> None:
        now = [process.memory_info().rss for process in processes]
        grown = max(a - b for a, b in zip(now, before, strict=True))
        growth.at_most = max(growth.at_most, grown)

    with meanwhile(watch, 0.01):
        yield growth


def test_image_bombs(stack: Stack, report: Callable[[str], None]) -> None:
    worker = stack.echo_worker()
    api = stack.api()
    watched = server(stack.processes[-1]), psutil.Process(worker.pid)
    assert raw.post(api, looking(files.SCENE)).status == 200  # all is loaded
    before = jobs(stack)
    with watching(*watched) as growth:
        replies = {
            name: raw.post_all(api, [looking(bomb)] * PARALLEL)
            for name, bomb in files.bombs().items()
        }
    slowest_s = max(map(raw.slowest_s, replies.values()))
    report(
        f"image bombs: {len(replies)} kinds x {PARALLEL} at once, all refused, slowest "
        f"{slowest_s:.2f} s, memory +{growth.at_most / 2**20:.0f} MB"
    )
    for name, each in replies.items():
        status = 413 if name.endswith("Mpx") else 400
        assert [reply.status for reply in each] == [status] * PARALLEL, (name, each[0])
    assert slowest_s <= 1.0
    assert growth.at_most <= MAX_GROWTH_BYTES
    assert jobs(stack) == before
    nothing_broke(stack)


def test_the_largest_animations(stack: Stack, report: Callable[[str], None]) -> None:
    """Just within the limit, in each of many frames, of which only the first is decoded."""
    worker = stack.echo_worker()
    api = stack.api()
    assert raw.post(api, looking(files.SCENE)).status == 200  # all is loaded
    gif = files.animation((5_000, 5_000), 30)
    asked = [looking(gif + bytes([place]), kind="gif") for place in range(PARALLEL)]
    with watching(server(stack.processes[-1]), psutil.Process(worker.pid)) as growth:
        replies = raw.post_all(api, asked)
    report(
        f"30 frames of 25 Mpx x {PARALLEL} at once: all answered, slowest "
        f"{raw.slowest_s(replies):.1f} s, memory +{growth.at_most / 2**20:.0f} MB"
    )
    assert [reply.status for reply in replies] == [200] * PARALLEL
    assert growth.at_most <= MAX_DECODED_BYTES
    nothing_broke(stack)
