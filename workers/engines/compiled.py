"""The decode step compiled ahead of time, in a process of its own, and kept on disk.

`python -m workers.engines.compiled` exports one decode step of a checkpoint with torch.export and
compiles it with AOTInductor, weights frozen in. Serving goes on eagerly meanwhile; a later start
only loads the file. Any model that cannot be exported stays eager, which a warning says.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from broker.errors import ConfigurationError
from workers.engines import attention
from workers.engines.base import EngineOptions
from workers.engines.cache import Layers, SlotCache
from workers.engines.checkpoint import load_checkpoint

log = logging.getLogger(__name__)

Compiled = Callable[[Tensor, Tensor, Tensor, Layers], Tensor]
"""Ids `[rows]`, positions `[rows]`, anything of length `stop` and the cache to `[rows, vocab]`."""

MODES = ("auto", "off", "now")
MIN_ROWS = 2
_MEMORY_SHARE = 0.25
"""Share of the machine's memory that the weights may take: compiled code holds a second copy."""
_TOLERANCE = {torch.float32: 1e-3}
_LOW_PRECISION_TOLERANCE = 0.1
_KEPT_FILES = 4
_PR_SET_PDEATHSIG = 1


class DecodeStep(nn.Module):
    """One token for each of the first rows of a cache, as a function of tensors alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, starts: Tensor, span: Tensor, layers: Layers) -> Tensor:
        """Return logits `[rows, vocab]`; writes each row's state at its own position."""
        cache = SlotCache.over(layers)
        cache.aim(0, starts, span.shape[0], 1)
        output = self.model(
            input_ids=ids[:, None],
            position_ids=starts[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


class Compiler:
    """Gets the compiled step of one checkpoint: from disk, or by compiling it in the background."""

    def __init__(self, options: EngineOptions, model: transformers.PreTrainedModel) -> None:
        self._options = options
        self._model = model
        self._path = Path(options.compile_dir or ".") / f"{_fingerprint(options, model)}.pt2"

    def start(self, ready: Callable[[Compiled], None]) -> None:
        """Hand the compiled step to `ready` when it is there: at once, later, or never."""
        reason = _obstacle(self._options, self._model)
        if reason:
            log.warning("decoding without compiled code: %s", reason)
        elif self._options.compile == "now" or self._path.exists():
            self._provide(ready)
        else:
            thread = threading.Thread(
                target=self._provide, args=(ready,), name="compile", daemon=True
            )
            thread.start()

    def _provide(self, ready: Callable[[Compiled], None]) -> None:
        started_s = time.monotonic()
        try:
            if not self._path.exists():
                log.info("compiling the decode step in the background; serving without it so far")
                self._compile()
            step = load(self._path)
            self._verify(step)
        except Exception as error:  # whatever a model or a compiler that does not fit runs into
            log.warning("decoding without compiled code: %s", error)
        else:
            ready(step)
            log.info("decoding with compiled code after %.0f s", time.monotonic() - started_s)

    @torch.inference_mode()
    def _verify(self, step: Compiled) -> None:
        """Compare one step with the model's own, on a cache for this alone.

        Raises:
            ConfigurationError: the compiled step computes something else.
        """
        layers = _fresh_layers(self._model, self._options)
        example = _example()
        expected = DecodeStep(self._model)(*example, layers).float()
        got = step(*example, layers).float()
        error = ((got - expected).norm() / (expected - expected.mean()).norm()).item()
        if not error < _TOLERANCE.get(self._model.dtype, _LOW_PRECISION_TOLERANCE):
            raise ConfigurationError(f"compiled code differs from the model by {error:.1%}")

    def _compile(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        wish = asdict(self._options) | {"threads": torch.get_num_threads()}
        command = [sys.executable, "-m", __name__, json.dumps(wish), str(self._path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise ConfigurationError(lines[-1][:300])
        for old in sorted(self._path.parent.glob("*.pt2"), key=_age)[_KEPT_FILES:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".lock").unlink(missing_ok=True)


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def load(path: Path) -> Compiled:
    """Load a compiled step."""
    runner: Any = torch._inductor.aoti_load_package(str(path))
    step: Compiled = runner
    return step


def _fingerprint(options: EngineOptions, model: transformers.PreTrainedModel) -> str:
    """Name what compiled code depends on: weights, shapes, formats, versions and the processor."""
    files = [Path(options.model_path)]
    if files[0].is_dir():
        files = sorted(each for each in files[0].iterdir() if each.is_file())
    facts = [
        [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files],
        options.model_path,
        str(model.dtype),
        options.load_8bit,
        options.slots,
        options.context_length,
        torch.get_num_threads(),
        (torch.__version__, transformers.__version__),
        torch.backends.cpu.get_cpu_capability(),
        [Path(module).read_text() for module in (__file__, attention.__file__)],
    ]
    digest = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
    return f"{model.config.model_type}-{digest[:20]}"


def _obstacle(options: EngineOptions, model: transformers.PreTrainedModel) -> str | None:
    if model.device.type != "cpu":
        return f"there is none for {model.device.type}"
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "there is no C++ compiler here (install g++)"
    if options.load_8bit:
        return "8-bit weights are not compiled"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if sum(each.nbytes for each in model.parameters()) > _MEMORY_SHARE * memory:
        return "the weights are too large to be held twice"
    return None


def _example() -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor([5, 6, 7]), torch.tensor([2, 0, 1]), torch.zeros(3, dtype=torch.uint8)


def _fresh_layers(model: nn.Module, options: EngineOptions) -> Layers:
    """Make a cache as the engine has it: the first pass shows what shapes the model writes."""
    assert options.context_length is not None
    cache = SlotCache(options.slots, options.context_length)
    cache.aim(0, torch.tensor([0, 0]), 1, 1)
    zeros = torch.zeros((MIN_ROWS, 1), dtype=torch.long)
    model(input_ids=zeros, position_ids=zeros, past_key_values=cache, use_cache=True)
    return cache.layers_in_use()


def compile_to(path: Path, options: EngineOptions) -> None:
    """Compile a checkpoint's decode step and write it; the file appears complete or not at all."""
    model = load_checkpoint(options, lambda percent: None).model
    attention.switch(model)
    step = DecodeStep(model).eval().requires_grad_(False)
    with torch.no_grad():
        layers = _fresh_layers(model, options)
        rows = torch.export.Dim("rows", min=MIN_ROWS, max=max(options.slots, MIN_ROWS + 1))
        stop = torch.export.Dim("stop", min=2, max=options.context_length)
        fixed = [[None, None] for _ in layers]
        program = torch.export.export(
            step,
            (*_example(), layers),
            dynamic_shapes=({0: rows}, {0: rows}, {0: stop}, fixed),
            strict=False,
        )
        fresh = path.with_suffix(f".{os.getpid()}.pt2")
        torch._inductor.config.freezing = True
        torch._inductor.aoti_compile_and_package(program, package_path=str(fresh))
    fresh.replace(path)


def main() -> None:
    """Compile what the arguments say; a failure ends with one line."""
    os.nice(19)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    wish = json.loads(sys.argv[1])
    threads = wish.pop("threads")
    try:
        options, path = EngineOptions(**wish), Path(sys.argv[2])
        torch.set_num_threads(threads)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():  # another worker has not just done it
                compile_to(path, options)
    except Exception as error:
        text = (str(error).strip() or repr(error)).splitlines()[0]
        sys.exit(f"{type(error).__name__}: {text}")


if __name__ == "__main__":
    main()
