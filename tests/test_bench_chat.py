"""The load generator of the comparison, against the real API with the echo engine behind it."""

from __future__ import annotations

import argparse
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench import chat
from bench.answers import Answer, percentile, summarize
from bench.events import Body
from bench.flags import http_target
from bench.http import Exchange, HttpTarget
from bench.inprocess import EngineLoop, Setup
from bench.prompts import Ask, make_asks
from tests.stack import Stack
from workers.engines.base import EngineOptions

ECHO = "tokens=40&tokens_per_s=400"
"""Answers longer than what the tests ask for, at a speed that leaves gaps to be measured."""


@pytest.fixture(scope="module")
def address(echo_stack: Stack) -> str:
    echo_stack.echo_worker(ECHO, **{"model-name": "talker", "limit-model-concurrency": "8"})
    return echo_stack.api()


def test_two_servers_are_compared_in_a_table_and_a_file(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--target", f"one={address},model=talker", "--target", f"two={address}/v1"]
    arguments[-1] += ',model=talker,extra={"max_tokens": 5, "top_p": null}'
    arguments += ["--levels", "1,4", "--tokens", "12", "--rounds", "2", "--requests", "3"]
    chat.main([*arguments, "--baseline", "two", "--json", str(file)])

    figures = json.loads(file.read_text())
    results = {(each["chats"], each["target"]): each for each in figures["results"]}
    assert list(results) == [(1, "one"), (1, "two"), (4, "one"), (4, "two")]
    for (chats, target), result in results.items():
        median = result["median"]
        assert len(result["rounds"]) == 2
        assert median["requests"] == 2 * max(3, 2 * chats)
        assert median["errors"] == 0
        assert median["tokens_per_answer"] == (12 if target == "one" else 5)
        assert 0 < median["first_token_p50_ms"] <= median["first_token_p95_ms"]
        assert 0 < median["per_token_p50_ms"] <= median["per_token_p99_ms"]
        assert 0 < median["load_cpu_share"] < 1
    assert results[4, "two"]["ratio"] == 1
    rates = [results[4, name]["median"]["tokens_per_s"] for name in ("one", "two")]
    assert results[4, "one"]["ratio"] == pytest.approx(rates[0] / rates[1])
    assert figures["baseline"] == "two"
    assert figures["settings"]["levels"] == [1, 4]
    assert isinstance(figures["settings"]["seed"], int)
    assert {"cpu", "cores", "date", "command", "torch", "transformers"} <= set(figures["machine"])

    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.partition("chats  target")[2].splitlines()[1:5]]
    assert [row[:2] for row in rows] == [["1", "one"], ["1", "two"], ["4", "one"], ["4", "two"]]
    assert rows[2][2] == f"{rates[0]:.1f}"
    assert f"--seed {figures['settings']['seed']}" in shown


def test_pictures_are_sent_and_failures_are_counted(
    address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    targets = [f"right={address},model=talker", f"wrong={address},model=nobody"]
    arguments = [part for target in targets for part in ("--target", target)]
    arguments += ["--pictures", "--levels", "2", "--tokens", "4", "--rounds", "1"]
    chat.main([*arguments, "--requests", "4", "--json", str(file)])

    right, wrong = json.loads(file.read_text())["results"]
    assert right["median"]["errors"] == 0
    assert right["median"]["tokens_per_answer"] == 4
    assert wrong["median"]["errors"] == wrong["median"]["requests"] == 4
    assert wrong["median"]["tokens_per_s"] == 0
    assert "wrong, 2 chats, first failure: status 404" in capsys.readouterr().out


def test_the_engine_alone_answers_the_same_questions() -> None:
    options = EngineOptions(model_path=f"echo?{ECHO}", engine="echo", slots=4)
    loop = EngineLoop(Setup("engine", options, max_tokens=10, ignore_eos=False))
    answers = loop.run("engine", make_asks("0", 6, 30, pictures=True), 4)
    assert [answer.tokens for answer in answers] == [10] * 6
    assert all(len(answer.gaps()) == 9 and not answer.error for answer in answers)
    first_wave = max(answer.sent_s for answer in answers[:4])
    assert answers[4].sent_s > first_wave


def test_questions_are_all_different_and_the_same_for_everyone() -> None:
    for pictures in (False, True):
        asks = [make_asks(f"0 {turn} 8", 8, 60, pictures) for turn in range(3)]
        assert asks == [make_asks(f"0 {turn} 8", 8, 60, pictures) for turn in range(3)]
        flat = [ask for some in asks for ask in some]
        assert len({ask.text for ask in flat}) == len(flat)
        assert len({ask.png for ask in flat}) == (len(flat) if pictures else 1)


class Noting:
    """The target that the flags name, noting what it is asked."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self._target = http_target(flags.target[0], flags)
        self.name = self._target.name
        self.asked: list[str] = []

    def run(self, asks: Sequence[Ask], parallel: int) -> list[Answer]:
        self.asked += [ask.text for ask in asks]
        return self._target.run(asks, parallel)

    def close(self) -> None:
        self._target.close()


def test_the_same_seed_asks_the_same_and_no_seed_asks_anew(address: str) -> None:
    def asked(*seed: str) -> tuple[int, list[str]]:
        """Return the seed of a run and all questions of it."""
        arguments = ["--target", f"one={address},model=talker", "--levels", "1,2", "--tokens", "2"]
        flags = chat.read_flags([*arguments, "--rounds", "1", "--requests", "1", *seed])
        target = Noting(flags)
        assert not any(result.failures for result in chat.compare([target], flags))
        return flags.seed, target.asked

    (one, first), (other, second) = asked(), asked()
    assert one != other
    assert set(first).isdisjoint(second)
    assert asked("--seed", str(one)) == (one, first)
    assert len(first) == 1 + 2 + 2 + 4


@contextmanager
def server(reply: bytes) -> Iterator[str]:
    """A server that sends one reply byte by byte and closes; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(1_000_000)
                with suppress(ConnectionError):  # the client may leave once it saw the end
                    for place in range(len(reply)):
                        connection.sendall(reply[place : place + 1])

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def ask_once(reply: bytes) -> Answer:
    with server(reply) as address:
        target = HttpTarget("one", address, "any", max_tokens=8, timeout_s=10)
        (answer,) = target.run(make_asks("0", 1, 20, pictures=False), 1)
    return answer


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
WORD = b'data: {"choices": [{"delta": {"content": "%b"}}]}\r\n\r\n'


def test_tokens_are_counted_from_chunks_where_the_server_does_not_count() -> None:
    body = WORD % b"" + WORD % b"a" + WORD % b'\\"content\\":\\"b'
    for framing in (b"\r\n", b"Content-Length: %d\r\n\r\n" % len(body)):
        answer = ask_once(HEAD + framing + body)
        assert (answer.tokens, len(answer.arrivals), answer.error) == (2, 2, "")


def test_a_stream_that_is_cut_off_is_a_failure() -> None:
    answer = ask_once(HEAD + b"Content-Length: 1000\r\n\r\n" + WORD % b"a")
    assert "connection broke" in answer.error


def test_the_servers_own_counts_weigh_the_pieces() -> None:
    events = [
        b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"completion_tokens":1}}\n\n',
        b'data: {"choices":[{"delta":{"content":"b c d"}}],"usage":{"completion_tokens":4}}\n\n',
        b"data: [DONE]\n\n",
    ]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    answer = ask_once(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert answer.error == ""
    assert answer.tokens == 4
    assert [tokens for _, tokens in answer.arrivals] == [1, 3]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_an_answer_on_a_connection_that_stays_ends_with_its_last_chunk(size: int) -> None:
    event = WORD % b"a"
    reply = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    reply += 2 * (b"%x\r\n%b\r\n" % (len(event), event)) + b"0\r\n\r\n"
    exchange = Exchange(b"")
    for place in range(0, len(reply), size):
        assert not exchange.ended.is_set()
        exchange.take(reply[place : place + size])
    assert exchange.ended.is_set() and exchange.keeps
    assert (exchange.answer.tokens, exchange.answer.error) == (2, "")


def test_an_error_within_a_stream_is_a_failure() -> None:
    event = b'data: {"error": {"message": "out of memory"}}\n\n'
    answer = ask_once(HEAD + b"Content-Length: %d\r\n\r\n" % len(event) + event)
    assert "out of memory" in answer.error
    assert summarize([answer], load_cpu_s=0.0).errors == 1


def test_a_framed_body_may_be_cut_anywhere() -> None:
    reply = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\n\r\n\r\n0\r\n\r\n"
    for cut in range(1, len(reply)):
        body = Body()
        text = body.feed(reply[:cut]) + body.feed(reply[cut:])
        assert (text, body.complete, body.status) == (b"abc\r\n", True, 200)


def test_percentiles_are_weighted() -> None:
    assert percentile([(1.0, 9.0), (5.0, 1.0)], 0.9) == 1.0
    assert percentile([(1.0, 9.0), (5.0, 1.0)], 0.95) == 5.0
    assert percentile([(3.0, 1.0), (1.0, 1.0), (2.0, 1.0)], 0.5) == 2.0
    assert percentile([], 0.5) == 0.0
