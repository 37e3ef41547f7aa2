"""What is deployed: the compose file, the Procfile and the pins agree with the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker import settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    found: dict[str, Any] = loaded["services"]
    return found


def test_redis_is_not_published_to_the_host(services: dict[str, Any]) -> None:
    assert "ports" not in services["redis"]
    published = [port for each in services.values() for port in each.get("ports", ())]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_gpu_worker_is_a_profile_with_a_reservation(services: dict[str, Any]) -> None:
    gpu = services["worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "profiles" not in services["worker"]


def test_compose_and_procfile_start_modules_that_exist_with_settings_that_exist(
    services: dict[str, Any],
) -> None:
    lines = [each["command"] for name, each in services.items() if name != "redis"]
    lines += (ROOT / "Procfile").read_text().splitlines()
    modules = {match for line in lines for match in re.findall(r"python -m (\w+)", line)}
    assert modules == {"broker", "workers", "frontend"}
    assert all(importlib.util.find_spec(f"{name}.__main__") for name in modules)
    environment = {name: "1" for each in services.values() for name in each.get("environment", ())}
    settings.Settings.from_environment(environment)


def test_every_dependency_is_pinned() -> None:
    pins = dict(
        line.lower().split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line
    )
    assert pins["torch"] == "2.13.0"
    project = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'^  "([a-z0-9-]+)[><=]', project, re.MULTILINE)
    assert set(named) <= set(pins)
