"""Fixtures: an embedded Valkey, a real Redis where there is one, and stacks of real processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from broker.connection import connect
from frontend.service import Service
from tests.chaos import FIGURES
from tests.pictures import scene
from tests.stack import Stack, embedded_valkey, own_stack, real_redis

# How long an example takes says more about the machine than about what is tested.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-runs", type=int, default=2, help="runs of each fault in tests/chaos")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell what the processes of a test that failed have said, and what waits in their Redis."""
    report = yield
    if report.when == "call" and report.failed:
        given = getattr(item, "funcargs", {}).values()
        for stack in dict.fromkeys(each for each in given if isinstance(each, Stack)):
            report.sections += [(each.log.name, each.output[-2000:]) for each in stack.processes]
            report.sections.append(("Redis", stack.waiting()))
    return report


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


SERVERS = ["valkey", "redis"] if shutil.which("redis-server") else ["valkey"]


@pytest.fixture(scope="session", params=SERVERS)
def server_url(request: pytest.FixtureRequest, valkey_url: str) -> Iterator[str]:
    """Both servers that must work: the embedded Valkey and, where installed, real Redis."""
    if request.param == "valkey":
        yield valkey_url
    else:
        folder = request.getfixturevalue("tmp_path_factory").mktemp("redis")
        with real_redis(folder) as url:
            yield url


@pytest.fixture
def client(server_url: str) -> Iterator[redis.Redis]:
    """A client of each server in turn."""
    made = connect(server_url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def kept(request: pytest.FixtureRequest) -> Path:
    """A folder for compiled code, whose names say what it was made of, from one run to the next."""
    return Path(request.config.cache.mkdir("data"))


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Valkey of the test's own with no process beside it; the test starts what it needs."""
    with own_stack(tmp_path_factory.mktemp("stack")) as made:
        yield made


@pytest.fixture
def service(stack: Stack) -> Iterator[Service]:
    """The way in for requests to `stack`."""
    made = Service(stack.settings())
    yield made
    made.close()


@pytest.fixture(scope="module")
def echo_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Valkey and a fast echo worker, shared by the tests of a module."""
    with own_stack(tmp_path_factory.mktemp("echo-stack")) as made:
        made.echo_worker()
        yield made


@pytest.fixture(scope="module")
def demo_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Valkey and a worker with the demo model, shared by the tests of a module."""
    with own_stack(tmp_path_factory.mktemp("demo-stack")) as made:
        made.worker()
        yield made


@pytest.fixture(scope="session")
def red_circle() -> bytes:
    return scene(("circle", "red", (112, 112)))


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Where a test writes a line of figures of its own."""
    return partial(record_property, FIGURES)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the lines of figures of tests/chaos."""
    reports = [each for kind in terminalreporter.stats.values() for each in kind]
    ended = [each for each in reports if getattr(each, "when", "") == "teardown"]
    lines = [line for each in ended for name, line in each.user_properties if name == FIGURES]
    if lines:
        terminalreporter.section("faults")
    for line in lines:
        terminalreporter.write_line(line)
