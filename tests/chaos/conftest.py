"""How often each fault is tried, and one line for each case at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.chaos.cases import Case

_cases: list[Case] = []
_lines: list[str] = []


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> int:
    wanted: int = request.config.getoption("--chaos-runs")
    return wanted


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """Where a test counts what it saw."""
    made = Case(request.node.name.removeprefix("test_"))
    yield made
    _cases.append(made)


@pytest.fixture
def report() -> Callable[[str], None]:
    """Where a test writes a line of figures of its own."""
    return _lines.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _cases or _lines:
        terminalreporter.section("faults")
        for each in _cases:
            terminalreporter.write_line(each.line())
        for line in _lines:
            terminalreporter.write_line(line)
