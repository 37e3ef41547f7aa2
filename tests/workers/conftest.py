"""Checkpoints that several test modules use, written once per run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import workers.demo
from tests.workers import checkpoints


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for checkpoints that several tests use."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def compile_dir(kept: Path) -> str:
    """Where compiled code is kept: compiling the operators alone takes 37 s of a processor."""
    return str(kept / "compiled")


@pytest.fixture(scope="session")
def llama(models: Path) -> Path:
    """A random Llama."""
    return checkpoints.save_text_model(models / "llama", "llama")


@pytest.fixture(scope="session")
def internvl(models: Path) -> Path:
    """A random InternVL."""
    return checkpoints.save_internvl(models / "internvl")


@pytest.fixture(scope="session")
def demo(models: Path) -> Path:
    """A copy of the bundled demo model."""
    source = Path(workers.demo.__file__).with_name("model")
    return Path(shutil.copytree(source, models / "demo"))
