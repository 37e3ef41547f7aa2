"""Bodies that are too large, too slow or in too many parts: refused in time, and nobody waits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import httpx
import psutil
import pytest

from frontend.api.body import MAX_UPLOAD_S, MAX_VALUES
from tests.chaos import raw
from tests.chaos.test_inputs import MAX_GROWTH_BYTES, nothing_broke, watching
from tests.chaos.test_slow_readers import server
from tests.frontend.clients import body, post
from tests.frontend.originals import STREAM
from tests.stack import Stack

LIMIT_BYTES = 12 * 2**20
UPLOAD = "/gradio_api/upload"
LONG = "x" * 2**20
VALUES = (b"1", b"[]", b'""', b'{"a":1}')
BOUNDARY = "x" * 20
BETWEEN_S = 0.05
"""Between the requests of others."""
FORM = f"multipart/form-data; boundary={BOUNDARY}"

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    address = echo_stack.api(HELIOGRAPH_MAX_BODY_BYTES=str(LIMIT_BYTES))
    assert post(address, body()).status_code == 200  # all is loaded
    return address


@pytest.fixture(scope="module")
def page(echo_stack: Stack) -> str:
    address = echo_stack.ui(HELIOGRAPH_MAX_BODY_BYTES=str(LIMIT_BYTES))
    assert httpx.get(address).status_code == 200
    return address


def form(count: int, name: str = "a.png", content: bytes = b"x") -> bytes:
    """An upload of many files."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"'
    return (part.encode() + b"\r\n\r\n" + content + b"\r\n") * count + f"--{BOUNDARY}--".encode()


def many_values(value: bytes) -> bytes:
    """A body within the limit of bytes that is nothing but values."""
    count = (LIMIT_BYTES - 100) // (len(value) + 1)
    return b'{"model":"echo","messages":[' + (value + b",") * count + b"1]}"


@dataclass(frozen=True)
class Cut:
    """When the server hung up, and with which words."""

    after_s: float
    told: bytes


LARGE = b'{"x":"' + b"x" * 13_000_000 + b'"}'
CHUNK = b"100000\r\n" + b"x" * 2**20 + b"\r\n"


def test_large_bodies(echo_stack: Stack, address: str, report: Callable[[str], None]) -> None:
    api = server(echo_stack.processes[-1])
    with watching(api) as growth:
        large = [raw.post(address, LARGE), raw.exchange(address, raw.head() + CHUNK * 13)]
        values = [raw.post(address, many_values(value)) for value in VALUES]
        values.append(raw.post(address, many_values(b"[]"), STREAM))
        forms = [raw.post(address, each, kind=FORM) for each in (form(100_000), form(1, LONG))]
    refused = large + values + forms
    report(
        f"large bodies: {len(refused)} kinds, all refused, slowest {raw.slowest_s(refused):.2f} s, "
        f"memory +{growth.at_most / 2**20:.0f} MB"
    )
    for reply in large:
        assert reply.status == 413
        assert f"over {LIMIT_BYTES:,} bytes" in reply.error["message"]
    for reply in values:
        assert reply.status == 413
        assert f"over {MAX_VALUES:,} commas and brackets" in reply.error["message"]
    assert [reply.status for reply in forms] == [415, 415]
    assert raw.slowest_s(refused) <= 1.0
    assert growth.at_most <= MAX_GROWTH_BYTES
    nothing_broke(echo_stack)


def test_as_many_commas_as_are_accepted(address: str) -> None:
    def request(commas: int) -> bytes:
        return json.dumps(body(commas * ",", max_tokens=1)).encode()

    room = MAX_VALUES - sum(map(request(0).count, (b",", b"[", b"{")))
    assert [raw.post(address, request(commas)).status for commas in (room, room + 1)] == [200, 413]


def test_large_uploads_to_the_page(
    echo_stack: Stack, page: str, report: Callable[[str], None]
) -> None:
    join = "/gradio_api/queue/join"
    large_form = form(1, content=LARGE)
    with watching(psutil.Process(echo_stack.processes[-1].pid)) as growth:
        refused = {
            "file of 13 MB": (413, raw.post(page, large_form, UPLOAD, FORM)),
            "100,000 files": (400, raw.post(page, form(100_000), UPLOAD, FORM)),
            "name of 1 MB": (413, raw.post(page, form(1, LONG), UPLOAD, FORM)),
            "event of 13 MB": (413, raw.post(page, LARGE, join)),
            "13 MB in chunks": (413, raw.exchange(page, raw.head(join) + CHUNK * 13)),
        }
    slowest_s = raw.slowest_s(reply for _, reply in refused.values())
    report(
        f"large uploads: {len(refused)} kinds, all refused, slowest {slowest_s:.2f} s, memory "
        f"+{growth.at_most / 2**20:.0f} MB"
    )
    for name, (status, reply) in refused.items():
        assert reply.status == status, (name, reply)
        assert b"Traceback" not in reply.content, name
    assert slowest_s <= 2.0
    assert growth.at_most <= MAX_GROWTH_BYTES
    nothing_broke(echo_stack)


TRICKLES = {
    "small chunks": (raw.head(), b"a\r\n" + b"x" * 10 + b"\r\n"),
    "the size of a chunk": (raw.head(), b"0"),
    "a declared length": (raw.head(length="Content-Length: 1000000"), b"x" * 1000),
    "a worker's request": (raw.head(STREAM, length="Content-Length: 1000000"), b"x"),
    "a registration": (raw.head("/register_worker", length="Content-Length: 9999"), b"x"),
    "headers": (raw.head()[:-2], b"X-A: b\r\n"),
    "nothing": (b"", b""),
}


def trickle(address: str, start: bytes, piece: bytes) -> Cut:
    """Send a piece each second until the server has had enough."""
    with raw.connect(address) as connection:
        began_s = time.monotonic()
        connection.sendall(start)
        connection.settimeout(1.0)
        while time.monotonic() - began_s < 2 * MAX_UPLOAD_S:
            connection.sendall(piece)
            try:
                return Cut(time.monotonic() - began_s, connection.recv(4096))
            except TimeoutError:
                continue
    raise AssertionError(f"not cut after {2 * MAX_UPLOAD_S} s: {start!r}")


def test_slow_bodies(echo_stack: Stack, address: str, report: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(len(TRICKLES)) as pool:
        slow = {name: pool.submit(trickle, address, *each) for name, each in TRICKLES.items()}
        others = [raw.post(address, json.dumps(body()).encode())]
        while wait(slow.values(), timeout=BETWEEN_S).not_done:
            others.append(raw.post(address, json.dumps(body()).encode()))
    cuts = {name: each.result() for name, each in slow.items()}
    last_s = max(cut.after_s for cut in cuts.values())
    report(
        f"slow bodies: {len(cuts)} kinds, the last is cut after {last_s:.1f} s; "
        f"{len(others)} other answers, slowest {raw.slowest_s(others):.2f} s"
    )
    assert {name for name, cut in cuts.items() if not cut.told} == {"headers", "nothing"}
    for name, cut in cuts.items():
        assert cut.after_s <= 30.0, name
        assert not cut.told or cut.told.startswith(b"HTTP/1.1 408 "), (name, cut)
    assert {reply.status for reply in others} == {200}
    assert raw.slowest_s(others) <= 1.0
    nothing_broke(echo_stack)
