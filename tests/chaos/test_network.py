"""A network that is cut between Redis and a worker, or the API, while answers are under way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import redis

from broker import keys, registry
from broker.connection import SILENT_S, connect
from broker.messages import GenerateRequest
from broker.queues import intermediate_key
from frontend.service import Service
from tests.asking import answer, ask
from tests.chaos.cases import Case, Followers, Readers, Told
from tests.chaos.network import REFUSALS, Network, by_namespaces, by_proxy, network
from tests.chaos.proxy import Proxy
from tests.chaos.streams import streamed
from tests.chaos.test_workers import nothing_is_left
from tests.frontend.clients import Connection, body, post
from tests.stack import Process, Stack, until
from tests.workers.test_broken import claims

TOKENS = 800
ECHO = f"tokens_per_s=100&tokens={TOKENS}"
EXPECTED = " ".join(["word"] * TOKENS)
STREAMS = 6

SLOW = "tokens_per_s=20&tokens=260"
SLOW_EXPECTED = " ".join(["word"] * 260)
API_CUT_S = 10.0

WITHIN_S = {
    "noticed": keys.WORKER_TTL_S + 0.3,  # the heartbeat's life, and the time to look
    "taken over": 8.0,
    "takes jobs": 2.0,
    "listed": 4.0,
    "nothing stranded": 6.0,
}
SILENCE_S, REFUSAL_S, RESUMED_S = 8.0, 2.0, 3.0

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def net(tmp_path: Path, case: Case) -> Iterator[Network]:
    with network(tmp_path / "redis") as made:
        case.how = made.kind
        yield made


@pytest.fixture
def near(net: Network, tmp_path: Path) -> Iterator[Stack]:
    """Processes that no cut concerns."""
    made = Stack(net.near_url, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def far(net: Network, tmp_path: Path) -> Iterator[Stack]:
    """Processes that reach Redis across the cut."""
    made = Stack(net.far_url, tmp_path)
    yield made
    net.heal()  # or they would not end in order
    made.stop()


@pytest.fixture
def service(near: Stack) -> Iterator[Service]:
    made = Service(near.settings())
    yield made
    made.close()


def worker_id(stack: Stack, process: Process) -> str:
    info = stack.info(process)
    assert info is not None
    return info.id


@dataclass
class Partition:
    """Cuts one worker off and looks at what becomes of its answers."""

    net: Network
    near: Stack
    service: Service
    case: Case
    cut_off: str
    worst_s: dict[str, float] = field(default_factory=dict)

    def run(self, seconds: float, tokens: int) -> None:
        """Cut at a token of the answers that the worker has alone, for so many seconds."""
        readers = Readers(self.service, asked := [self._ask() for _ in range(STREAMS)])
        readers.until_tokens(1)
        other = self.near.echo_worker(ECHO)
        other_id = worker_id(self.near, other)
        readers.until_tokens(tokens)
        self.net.cut()
        cut_s = time.monotonic()
        # For a second Redis does not know that nobody waits for jobs on the cut connection.
        popped = [self._ask(max_tokens=2) for _ in range(4)]
        self._until("noticed", cut_s, lambda: self._live() == {other_id})
        self._until("taken over", cut_s, lambda: all(len(claims(self.near, a)) == 2 for a in asked))
        pass_s(seconds, cut_s)
        self.net.heal()
        healed_s = time.monotonic()
        new: list[GenerateRequest] = []
        self._until("takes jobs", healed_s, lambda: self._has_taken_one_of(new))
        self._until("listed", healed_s, lambda: self.cut_off in self._live())
        key = intermediate_key("echo")
        self._until("nothing stranded", healed_s, lambda: not self.near.redis.exists(key))
        self.case.note(readers.finish(), EXPECTED, cut_s)
        for each in popped + new:
            assert answer(self.service, each)[0] == "word word"
        for each in asked:
            assert claims(self.near, each) == [self.cut_off, other_id]
        until(lambda: nothing_is_left(self.near, "echo"), "RQ's records are closed", 20)
        other.stop()

    def _ask(self, **params: object) -> GenerateRequest:
        return ask(self.service, "word", **params)  # type: ignore[arg-type]

    def _live(self) -> set[str]:
        return {info.id for info in registry.workers(self.near.redis)}

    def _has_taken_one_of(self, asked: list[GenerateRequest]) -> bool:
        asked.append(self._ask(max_tokens=2))
        return any(self.cut_off in claims(self.near, each) for each in asked)

    def _until(self, what: str, since_s: float, condition: object) -> None:
        until(condition, what, 40)  # type: ignore[arg-type]
        taken_s = time.monotonic() - since_s
        self.worst_s[what] = max(self.worst_s.get(what, 0.0), taken_s)


@pytest.mark.parametrize(
    ("seconds", "most_runs"),
    [
        (10.0, 50),
        pytest.param(30.0, 5, marks=pytest.mark.full),
        pytest.param(100.0, 2, marks=pytest.mark.full),
    ],
)
def test_a_worker_cut_off_from_redis(
    net: Network,
    near: Stack,
    far: Stack,
    service: Service,
    case: Case,
    runs: int,
    seconds: float,
    most_runs: int,
) -> None:
    """Its answers go on elsewhere; healed, it writes into none of them and takes new jobs."""
    dice = random.Random(f"{seconds} {runs}")
    worker = far.echo_worker(ECHO)
    partition = Partition(net, near, service, case, worker_id(near, worker))
    for _ in range(min(runs, most_runs)):
        partition.run(seconds, dice.randrange(250, 350))
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    late = {what: took_s for what, took_s in partition.worst_s.items() if took_s > WITHIN_S[what]}
    assert partition.worst_s.keys() == WITHIN_S.keys() and not late, late
    assert worker.status is None


def pass_s(seconds: float, since_s: float) -> None:
    """Wait until so many seconds have gone by since a moment."""
    until(lambda: time.monotonic() >= since_s + seconds, "time goes by", seconds + 1)


def refused_in_s(address: str) -> float:
    """How long a new request waits for its refusal."""
    began_s = time.monotonic()
    response = post(address, body(stream=True))
    assert response.status_code == 503, response.text
    error = response.json()["error"]
    assert error["code"] == "redis_unavailable"
    assert error["message"].startswith("Redis does not answer")
    return time.monotonic() - began_s


def longest_silence_s(told: Told, from_s: float, to_s: float) -> float:
    """Longest time between two signs of life of a stream, comments included."""
    signs = sorted([*told.ticks, *(at for at, _ in told.events)])
    within = [from_s, *(at for at in signs if from_s < at < to_s), to_s]
    return max(b - a for a, b in pairwise(within))


def test_the_api_cut_off_from_redis(
    net: Network, near: Stack, far: Stack, case: Case, runs: int
) -> None:
    """Open streams live on comments and go on; new requests are refused until it is healed."""
    near.echo_worker(SLOW)
    address = far.api()
    dice = random.Random(runs)
    for _ in range(runs):
        readers = Followers([streamed(address, "word") for _ in range(STREAMS)])
        readers.until_tokens(dice.randrange(1, 20))
        net.cut()
        cut_s = time.monotonic()
        while time.monotonic() < cut_s + API_CUT_S - REFUSAL_S:
            assert refused_in_s(address) < REFUSAL_S
        pass_s(API_CUT_S, cut_s)
        net.heal()
        healed_s = time.monotonic()
        told = readers.finish()
        case.note(told, SLOW_EXPECTED, healed_s)
        silences_s = [longest_silence_s(each, cut_s, healed_s) for each in told]
        assert max(silences_s) < SILENCE_S, silences_s
        assert post(address, body("once more", max_tokens=2)).status_code == 200
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    assert case.worst_s < RESUMED_S, case.line()


@pytest.mark.full
def test_an_api_is_as_good_as_new_after_a_long_cut(
    net: Network, near: Stack, far: Stack, case: Case
) -> None:
    """What it had said on its old connections holds nothing up."""
    near.echo_worker(SLOW)
    address = far.api()
    with Connection(address) as lost:
        lost.send(body(stream=True))
        lost.wait_for("id: 1-5")
        net.cut()
        cut_s = time.monotonic()
        lost.wait_for('data: {"error"')
        pass_s(60.0, cut_s)
        net.heal()
    healed_s = time.monotonic()
    until(lambda: post(address, body("again", max_tokens=2)).status_code == 200, "it answers")
    assert time.monotonic() - healed_s < RESUMED_S
    readers = Followers([streamed(address, "word") for _ in range(STREAMS)])
    case.note(readers.finish(), SLOW_EXPECTED, None)
    assert (case.exact, case.duplicated, case.lost) == (case.answers, 0, 0), case.line()
    assert case.worst_s < 1.0, case.line()


@pytest.mark.parametrize("way", [by_namespaces, by_proxy])
def test_a_cut_closes_nothing_and_heals(
    way: Callable[[Path], AbstractContextManager[Network]], tmp_path: Path
) -> None:
    """What the other tests rely on, both ways."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(way(tmp_path))
        except REFUSALS as error:
            pytest.skip(f"this machine allows no network namespaces: {error}")
        client = stack.enter_context(closing(connect(made.far_url, socket_timeout_s=20)))
        client.set("key", "value")
        made.cut()
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(client.get, "key")
            with pytest.raises(TimeoutError):
                reply.result(1.0)
            made.heal()
            assert reply.result(5.0) == b"value"


def test_what_was_sent_into_a_cut_is_not_done_after_it(net: Network, case: Case) -> None:
    """Neither a pop that nobody waits for any more, nor a subscription that only listens, stays."""
    if isinstance(net.between, Proxy):
        pytest.skip("a proxy acknowledges for the other end, so its silence is no cut to TCP")
    near = connect(net.near_url)
    pops = connect(net.far_url, retry=False, socket_timeout_s=2.0)
    listens = connect(net.far_url, retry=False).pubsub()  # type: ignore[no-untyped-call]
    listens.subscribe("channel")
    pops.ping()
    net.cut()
    cut_s = time.monotonic()
    with pytest.raises(redis.TimeoutError):
        pops.blmove("waiting", "popped", 1)
    pops.close()
    with pytest.raises(redis.RedisError):
        while time.monotonic() < cut_s + SILENT_S + 1.5:
            listens.get_message(timeout=1.0)
    pass_s(SILENT_S + 1.5, cut_s)
    near.rpush("waiting", "job")
    net.heal()
    pass_s(14.0, cut_s)  # a lost pop would be sent again 13 s after the cut
    assert (near.lrange("waiting", 0, -1), near.exists("popped")) == ([b"job"], 0)
    near.close()
