"""Operators in C++ for CPUs: compiled once for this machine, kept on disk, and loaded.

They are known to torch in every process, so that models can be exported with them; they compute
only where `load` was called. Nothing depends on them but speed, and 8-bit weights.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

from broker.errors import ConfigurationError

_FOLDER = Path(__file__).parent
_FORMATS = (torch.bfloat16, torch.float16, torch.float32)
_FLAGS = (
    *("-std=c++20", "-O3", "-march=native", "-fopenmp", "-fPIC"),
    # Sums stay in the order in which they are written: it must not depend on the function.
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
    "-ffinite-math-only",
)
_loaded = False

torch.library.define(
    "heliograph::attend",
    "(Tensor query, Tensor keys, Tensor values, Tensor mask, Tensor slots, Tensor positions,"
    " float scale, float softcap, Tensor? sinks) -> Tensor",
)
torch.library.define(
    "heliograph::linear",
    "(Tensor x, Tensor weight, Tensor? scale, Tensor? bias, int outputs) -> Tensor",
)
torch.library.define("heliograph::open_package", "(str path) -> int")
torch.library.define("heliograph::run_package", "(int number, Tensor[] inputs) -> Tensor[]")


@torch.library.register_fake("heliograph::attend")  # type: ignore[untyped-decorator]
def _fake_attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *others: object
) -> torch.Tensor:
    return query.new_empty((1, query.shape[2], query.shape[1], values.shape[3]))


@torch.library.register_fake("heliograph::linear")  # type: ignore[untyped-decorator]
def _fake_linear(x: torch.Tensor, *weights: Any) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weights[-1]))


def compiler() -> str | None:
    """Return the C++ compiler of this machine, None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `attend` can compute there, in that number format."""
    return _loaded and device.type == "cpu" and dtype in _FORMATS


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attend from each token to its row of the cache, up to its own position.

    Args:
        query: `[1, heads, tokens, dim]`.
        keys: `[rows, key heads, length, dim]`; each key head serves heads / key heads queries.
        values: `[rows, key heads, length, value dim]`.
        mask: `[1, 1, tokens, stop]`, bool, `stop` greater than every position; or `[1, 1, 1, 1]`
            where each token sees everything up to its own position.
        slots: row of each token, `[tokens]`.
        positions: position of each token, `[tokens]`.
        scale: factor of the scores.
        softcap: bound of the scores by a hyperbolic tangent, None for no bound.
        sinks: a score for each head that takes its share of the weights and adds nothing.

    Returns:
        `[1, tokens, heads, value dim]`.
    """
    output: torch.Tensor = torch.ops.heliograph.attend(
        query, keys, values, mask, slots, positions, scale, softcap or 0.0, sinks
    )
    return output


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    outputs: int,
) -> torch.Tensor:
    """Multiply by weights and add a bias; see `PackedLinear` for the order of weights.

    Args:
        x: `[..., inputs]`; rounded to bfloat16.
        weight: `[outputs / 48, inputs / 2, 48, 2]`, bfloat16 or int8.
        scale: float32 factor of each output's weights, `[outputs]`.
        bias: float32, `[outputs]`.
        outputs: how many of them there are.

    Returns:
        `[..., outputs]`, in the format of `x`.
    """
    output: torch.Tensor = torch.ops.heliograph.linear(x, weight, scale, bias, outputs)
    return output


class Package:
    """Code that AOTInductor has compiled. Other threads of Python go on while it runs."""

    def __init__(self, path: Path) -> None:
        """Load the file; the operators must be loaded."""
        self._number: int = torch.ops.heliograph.open_package(str(path))

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Run the code on tensors in the order that it was exported with; return its output."""
        (output,) = torch.ops.heliograph.run_package(self._number, list(inputs))
        return output  # type: ignore[no-any-return]


def has_linear() -> bool:
    """Whether this machine can compute `linear`, given a compiler."""
    return "avx512_bf16" in _processor().split()


def load(folder: Path) -> None:
    """Load the operators, compiled for this machine; compile them into `folder` if need be.

    Raises:
        ConfigurationError: there is no compiler, or it failed.
    """
    global _loaded
    if _loaded:
        return
    path = folder / f"operators-{_fingerprint()}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():  # another worker has not just done it
                _compile(path)
    torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    _loaded = True


def _sources() -> list[Path]:
    names = ["attention.cpp", "package.cpp", *(["linear.cpp"] if has_linear() else [])]
    return [_FOLDER / name for name in names]


def _fingerprint() -> str:
    files = (Path(__file__), _FOLDER / "share.h", *_sources())
    texts = [*(each.read_text() for each in files), torch.__version__, _processor()]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:20]


def _processor() -> str:
    """What the code is compiled for: the features of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(path: Path) -> None:
    command = compiler()
    if command is None:
        raise ConfigurationError("there is no C++ compiler here (install g++)")
    libraries = Path(torch.__file__).parent / "lib"
    includes = [f"-I{folder}" for folder in (_FOLDER, *cpp_extension.include_paths())]
    links = [f"-L{libraries}", "-lc10", "-ltorch", "-ltorch_cpu"]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        compiles = [[command, *_FLAGS, *includes, "-c", str(source)] for source in _sources()]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_run, compiles, [folder] * len(compiles)))
        objects = [f"{source.stem}.o" for source in _sources()]
        _run([command, "-shared", "-fopenmp", *objects, "-o", path.name, *links], folder)
        (Path(folder) / path.name).replace(path)


def _run(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ConfigurationError(f"{command[0]} failed on the operators: {lines[0][:300]}")
