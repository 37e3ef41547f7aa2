"""Loading a checkpoint's weights: onto which device, in which number format.

Owns the choices that `"auto"` leaves open; all that comes before the weights is `language`'s. Knows
nothing of sequences or slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers.utils.logging import set_tqdm_hook

from broker.errors import ConfigurationError
from workers.device_map import split_model
from workers.engines import native, packed
from workers.engines.base import EngineOptions, Loading
from workers.engines.language import Language, load_language
from workers.engines.pictures import PictureProcessor
from workers.templates import Template

_DTYPES = ("float32", "bfloat16", "float16")
_SMALL_BYTES = 4_000_000_000
"""Float32 weights of about a billion parameters: above that, a CPU takes bfloat16."""
_TINY_PARAMETERS = 30_000_000
_MAX_LENGTH = 2048
"""Context length of a checkpoint that does not name its own."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with what is needed to talk to it."""

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    template: str | Template | None
    pictures: PictureProcessor | None
    max_length: int


def load_checkpoint(options: EngineOptions, progress: Loading) -> Checkpoint:
    """Load what `options.model_path` names, a folder or a `.gguf` file.

    Raises:
        ConfigurationError: the model, the device or the format is unknown or cannot be served.
    """
    device = _choose_device(options.device)
    progress(1)
    language = load_language(options)
    progress(5)
    try:
        with _weights_progress(progress):
            model = language.load_model(**_weights(options, language, device))
    except (OSError, ValueError, ImportError) as error:
        raise ConfigurationError(f"cannot load {options.model_path}: {error}") from error
    if device.type == "cpu" and model.num_parameters() < _TINY_PARAMETERS:
        # Threads wait for each other longer than they compute: 2.3 ms a step with one, 16 ms with
        # two on a busy two-core machine (3 M parameters, one request).
        torch.set_num_threads(1)
    if options.load_8bit and _has_own_int8(device):
        native.load(Path(options.compile_dir))
        packed.pack(model, bits=8)
    text = language.config.get_text_config()
    return Checkpoint(
        model=cast(Any, model).eval(),
        tokenizer=language.tokenizer,
        template=language.template,
        pictures=language.pictures,
        max_length=getattr(text, "max_position_embeddings", _MAX_LENGTH),
    )


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(f"device {name!r} cannot be used here: {error}") from error
    return device


def _weights(options: EngineOptions, language: Language, device: torch.device) -> dict[str, Any]:
    """Choose `from_pretrained` arguments: number format, place and quantization."""
    chosen: dict[str, Any] = {
        "dtype": _choose_dtype(options.dtype, language, device),
        "device_map": _place(options.device, language.config, device),
    }
    if options.load_8bit and not _has_own_int8(device):
        chosen["quantization_config"] = _int8(device)
    return chosen


def _place(name: str, config: Any, device: torch.device) -> dict[str, Any]:
    """All on one device; with `auto` and several GPUs, spread over them."""
    gpus = torch.cuda.device_count() if name == "auto" and device.type == "cuda" else 1
    return split_model(config, gpus) if gpus > 1 else {"": device}


def _has_own_int8(device: torch.device) -> bool:
    return device.type == "cpu" and native.has_linear() and native.compiler() is not None


def _choose_dtype(name: str, language: Language, device: torch.device) -> torch.dtype | str:
    """`"auto"` is the checkpoint's own format on an accelerator.

    On a CPU it is bfloat16, except for float32 checkpoints of up to about a billion parameters.
    """
    if name in _DTYPES:
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if name != "auto":
        raise ConfigurationError(f"dtype {name!r} is not one of: auto, {', '.join(_DTYPES)}")
    if device.type != "cpu":
        return "auto"
    size = sum(file.stat().st_size for file in Path(language.path).glob("*.safetensors"))
    if language.config.dtype == torch.float32 and size < _SMALL_BYTES:
        return torch.float32
    return torch.bfloat16


def _int8(device: torch.device) -> Any:
    package = "bitsandbytes" if device.type == "cuda" else "torchao"
    if find_spec(package) is None:
        raise ConfigurationError(
            f"8-bit weights on {device.type} need the package {package}: "
            "pip install 'heliograph[int8]'"
        )
    if package == "bitsandbytes":
        return cast(Any, transformers.BitsAndBytesConfig)(load_in_8bit=True)
    from torchao.quantization import Int8WeightOnlyConfig

    return transformers.TorchAoConfig(Int8WeightOnlyConfig())


@contextmanager
def _weights_progress(progress: Loading) -> Iterator[None]:
    """Report transformers' own loading bar as 5 to 90 per cent."""
    previous = set_tqdm_hook(lambda factory, args, kwargs: _Bar(progress, *args, **kwargs))
    try:
        yield
    finally:
        set_tqdm_hook(previous)
    progress(90)


class _Bar:
    """Stands in for a tqdm bar: counts, and shows nothing."""

    def __init__(
        self, progress: Loading, iterable: Any = None, total: int | None = None, **kwargs: Any
    ) -> None:
        self._progress = progress
        self._items = iterable
        self._total = total or (len(iterable) if hasattr(iterable, "__len__") else 0)
        self._done = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Count items as loaded."""
        self._done += n
        if self._total:
            self._progress(5 + 85 * min(self._done, self._total) // self._total)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None
