"""How often each fault is tried, and one line for each case at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.cases import Case

_cases: list[Case] = []


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> int:
    wanted: int = request.config.getoption("--chaos-runs")
    return wanted


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """Where a test counts what it saw."""
    made = Case(request.node.name.removeprefix("test_"))
    yield made
    if made.runs:
        _cases.append(made)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _cases:
        terminalreporter.section("faults")
        for each in _cases:
            terminalreporter.write_line(each.line())
