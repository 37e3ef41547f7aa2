"""How often each fault is tried, and one line for each case at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos import FIGURES
from tests.chaos.cases import Case

SHORT_RUNS = 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long faults to the full set."""
    if config.getoption("--chaos-runs") <= SHORT_RUNS:
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


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
        request.node.user_properties.append((FIGURES, made.line()))
