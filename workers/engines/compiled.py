"""The model's forward pass compiled ahead of time, in a process of its own, and kept on disk.

`python -m workers.engines.compiled` exports one pass of a checkpoint with torch.export and compiles
it with AOTInductor, weights frozen in. Serving goes on eagerly meanwhile; a later start only loads
the file. Any model that cannot be exported stays eager, which a warning says.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import logging
import os
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
from broker.parent import end_with_parent
from workers.engines import attention, deepstack, native, packed
from workers.engines.base import EngineOptions
from workers.engines.cache import Layers, SlotCache
from workers.engines.checkpoint import load_checkpoint
from workers.engines.layout import Placement
from workers.engines.plan import Plan

log = logging.getLogger(__name__)

Compiled = Callable[..., Tensor]
"""A `Pass` as a function; see there."""

MIN_TOKENS = 2
"""Compiled code takes no fewer tokens, logits or positions: a dimension of one is a constant."""
MAX_TOKENS = 8192
_MEMORY_SHARE = 0.25
"""Share of the machine's memory that the weights may take: compiled code holds a second copy."""
_TOLERANCE = {torch.float32: 1e-3}
_LOW_PRECISION_TOLERANCE = 0.1
_KEPT_FILES = 4
_SOURCES = [
    Path(__file__).parent / name
    for name in (
        "compiled.py",
        "attention.py",
        "cache.py",
        "deepstack.py",
        "native/__init__.py",
        "packed.py",
        "plan.py",
    )
]


class Pass(nn.Module):
    """A flat list of tokens through the model, as a function of tensors alone."""

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.width = model.get_input_embeddings().embedding_dim

    def forward(
        self,
        embeddings: Tensor,
        slots: Tensor,
        positions: Tensor,
        rotary: Tensor,
        keep: Tensor,
        span: Tensor,
        layers: Layers,
    ) -> Tensor:
        """Run the pass and write the states of every token.

        Args:
            embeddings: `[1, tokens, hidden]`; behind it, what pictures add to layers.
            slots: row of each token, `[tokens]`.
            positions: position of each token, `[tokens]`.
            rotary: rotary position of each token, `[1, tokens]` or `[3, 1, tokens]`.
            keep: places of the tokens whose logits are wanted, `[kept]`.
            span: anything as long as the longest row after the pass.
            layers: the cache.

        Returns:
            Logits, `[kept, vocab]`.
        """
        additions = embeddings[..., self.width :]
        with Plan(slots, positions, span.shape[0], additions=additions).in_use():
            output = self.model(
                inputs_embeds=embeddings[..., : self.width],
                position_ids=rotary,
                past_key_values=SlotCache.over(layers),
                use_cache=True,
                logits_to_keep=keep,
            )
        logits: Tensor = output.logits[0]
        return logits


class Compiler:
    """Gets the compiled pass of one checkpoint: from disk, or by compiling it in the background."""

    def __init__(self, options: EngineOptions, model: transformers.PreTrainedModel) -> None:
        self._options = options
        self._model = model
        self._path = Path(options.compile_dir or ".") / f"{_fingerprint(options, model)}.pt2"

    def start(self, ready: Callable[[Compiled], None]) -> None:
        """Hand the compiled pass to `ready` when it is there: at once, later, or never."""
        reason = _obstacle(self._options, self._model)
        if reason:
            log.warning("running without compiled code: %s", reason)
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
                meanwhile = (
                    "" if self._options.compile == "now" else "; serving without that so far"
                )
                log.info("compiling the model%s", meanwhile)
                self._compile()
            expected = self._try(Pass(self._model))
            native.load(self._path.parent)
            compiled = load(self._path)
            _compare(self._try(compiled), expected)
        except Exception as error:  # whatever a model or a compiler that does not fit runs into
            log.warning("running without compiled code: %s", error)
        else:
            ready(compiled)
            log.info("running compiled code after %.0f s", time.monotonic() - started_s)

    @torch.inference_mode()
    def _try(self, function: Compiled) -> Tensor:
        """Run the example pass on a cache for this alone."""
        layers = _fresh_layers(self._model, self._options)
        return function(*_example(self._model), layers)

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


def _compare(got: Tensor, expected: Tensor) -> None:
    """Check that compiled code computes what the model does.

    Raises:
        ConfigurationError: it computes something else.
    """
    spread = (expected.float() - expected.float().mean()).norm()
    error = ((got.float() - expected.float()).norm() / spread).item()
    if not error < _TOLERANCE.get(expected.dtype, _LOW_PRECISION_TOLERANCE):
        raise ConfigurationError(f"compiled code differs from the model by {error:.1%}")


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def load(path: Path) -> Compiled:
    """Load a compiled pass; the operators of `native` must be loaded."""
    package = native.Package(path)

    def run(*inputs: Any) -> Tensor:
        *tensors, layers = inputs
        return package.run([*tensors, *itertools.chain.from_iterable(layers)])

    return run


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
        [source.read_text() for source in _SOURCES],
    ]
    digest = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
    return f"{model.config.model_type}-{digest[:20]}"


def _obstacle(options: EngineOptions, model: transformers.PreTrainedModel) -> str | None:
    if model.device.type != "cpu":
        return f"there is none for {model.device.type}"
    if native.compiler() is None:
        return "there is no C++ compiler here (install g++)"
    if options.load_8bit and not packed.is_packed(model):
        return "these 8-bit weights are not compiled"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if sum(each.nbytes for each in model.parameters()) > _MEMORY_SHARE * memory:
        return "the weights are too large to be held twice"
    return None


def _example(model: transformers.PreTrainedModel) -> tuple[Tensor, ...]:
    """Two rows with pieces of a prompt and single tokens, as `Pass.forward` takes them."""
    slots = torch.tensor([0] * 20 + [1, 0] + [1] * 10)
    positions = torch.tensor([*range(20), 0, 20, *range(1, 11)])
    embed = model.get_input_embeddings()
    with torch.no_grad():
        embeddings = embed(torch.arange(5, 5 + len(slots))[None])
    embeddings = torch.cat([embeddings] * (1 + deepstack.levels(model)), dim=-1)
    axes = Placement(model).axes
    # Each axis has numbers and memory of its own: compiled code would take them for one.
    rotary = positions[None] if axes == 1 else positions * torch.arange(1, axes + 1)[:, None, None]
    return embeddings, slots, positions, rotary, torch.tensor([19, 21, 31]), torch.zeros(21)


def _fresh_layers(model: transformers.PreTrainedModel, options: EngineOptions) -> Layers:
    """Make a cache as the engine has it."""
    assert options.context_length is not None
    cache = SlotCache(options.slots, options.context_length)
    cache.lay_out(model)
    return cache.layers_in_use()


def compile_to(path: Path, options: EngineOptions) -> None:
    """Compile a checkpoint's pass and write it; the file appears complete or not at all."""
    native.load(path.parent)
    model = load_checkpoint(options, lambda percent: None).model
    attention.switch(model)
    if native.has_linear():
        packed.pack(model, bits=16)
    whole = Pass(model).eval().requires_grad_(False)
    with torch.no_grad():
        layers = _fresh_layers(model, options)
        assert options.context_length is not None
        tokens = torch.export.Dim("tokens", min=MIN_TOKENS, max=MAX_TOKENS)
        kept = torch.export.Dim("kept", min=MIN_TOKENS, max=MAX_TOKENS)
        stop = torch.export.Dim("stop", min=MIN_TOKENS, max=options.context_length)
        fixed = [[None, None] for _ in layers]
        example = _example(model)
        rotary = {example[3].dim() - 1: tokens}
        lengths = {1: tokens}, {0: tokens}, {0: tokens}, rotary, {0: kept}, {0: stop}
        program = torch.export.export(
            whole,
            (*example, layers),
            dynamic_shapes=(*lengths, fixed),
            strict=False,
        )
        fresh = path.with_suffix(f".{os.getpid()}.pt2")
        torch._inductor.config.freezing = True
        torch._inductor.config.cpp.enable_concat_linear = True
        torch._inductor.aoti_compile_and_package(program, package_path=str(fresh))
    fresh.replace(path)


def main() -> None:
    """Compile what the arguments say; a failure ends with one line."""
    end_with_parent()
    wish = json.loads(sys.argv[1])
    if wish["compile"] != "now":  # else the worker waits for it, and on a busy machine for long
        os.nice(19)
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
