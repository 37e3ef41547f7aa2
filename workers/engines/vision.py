"""The vision tower: pictures to features, a slice at a time between steps, and kept.

A large picture takes a tower longer than readers of running answers should wait. So it stops after
any of its layers when time is up, and goes on from there after the next step. It runs on the
engine's thread, in a greenlet: a second thread would have a second team of OpenMP's. Knows nothing
of prompts or sequences.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from greenlet import getcurrent, greenlet
from torch import nn
from transformers import PreTrainedModel

from workers.engines.pictures import Key, Pixels

_TOLERANCE = 0.05


class VisionTower:
    """Features by picture, the least recently used dropped beyond `max_bytes`."""

    def __init__(self, model: PreTrainedModel, max_bytes: int = 256 * 2**20) -> None:
        self._model = model
        self._max_bytes = max_bytes
        self._bytes = 0
        self._features: OrderedDict[Key, torch.Tensor] = OrderedDict()
        self._work: _Work | None = None
        self._by_tile = False
        self.encoded = 0
        """Pictures that went through the tower since the start."""

    @torch.inference_mode()
    def learn_to_split(self, pixels: Pixels) -> None:
        """Find out with a picture of some tiles whether each can be encoded for itself."""
        whole, parts = self._encode(pixels.inputs), self._encode_tiles(pixels.inputs)
        self._by_tile = (
            parts is not None
            and parts.shape == whole.shape
            and bool((parts - whole).float().norm() < _TOLERANCE * whole.float().norm())
        )

    def has(self, pixels: Pixels) -> bool:
        """Whether a picture's features are here."""
        return pixels.key in self._features

    def work(self, pixels: Pixels, deadline_s: float) -> None:
        """Encode a picture until `time.perf_counter()` says `deadline_s`, or it is done.

        At least a layer gets done. Work on another picture that was not done is given up.
        """
        if self.has(pixels):
            return
        if self._work is not None and self._work.key != pixels.key:
            self._work.throw()
            self._work = None
        work = self._work or _Work(pixels.key, lambda: self.get(pixels), _linears(self._model))
        work.deadline_s, self._work = deadline_s, None
        work.switch()
        self._work = None if work.dead else work

    def get(self, pixels: Pixels) -> torch.Tensor:
        """Return a picture's features `[tokens, hidden]`, encoding it unless they are here."""
        features = self._features.get(pixels.key)
        if features is not None:
            self._features.move_to_end(pixels.key)
            return features
        tiles = self._encode_tiles(pixels.inputs) if self._by_tile else None
        features = self._encode(pixels.inputs) if tiles is None else tiles
        self.encoded += 1
        self._features[pixels.key] = features
        self._bytes += features.nbytes
        while self._bytes > self._max_bytes and len(self._features) > 1:
            self._bytes -= self._features.popitem(last=False)[1].nbytes
        return features

    def _encode_tiles(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Encode tile by tile; None if what the tower takes is not just a list of tiles."""
        tiles = inputs.get("pixel_values")
        if tiles is None or len(inputs) > 1 or tiles.dim() != 4:
            return None
        return torch.cat([self._encode({"pixel_values": tile[None]}) for tile in tiles])

    def _encode(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        device = self._model.device
        there = {name: value.to(device) for name, value in inputs.items()}
        output = cast(Any, self._model).get_image_features(**there)
        levels = [getattr(output, "pooler_output", output)]
        levels += getattr(output, "deepstack_features", None) or []
        return torch.cat([_flat(level) for level in levels], dim=-1)


def _flat(features: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Features of some tiles or pictures as `[tokens, hidden]`."""
    parts = [features] if isinstance(features, torch.Tensor) else features
    return torch.cat([each.reshape(-1, each.shape[-1]) for each in parts])


class _Work(greenlet):
    """One picture on its way through the tower; `switch` goes on until it pauses or is done."""

    def __init__(self, key: Key, encode: Callable[[], object], layers: Sequence[nn.Module]) -> None:
        super().__init__(self._run)
        self.key = key
        self.deadline_s = 0.0
        self._encode = encode
        self._layers = layers

    def _run(self) -> None:
        hooks = [layer.register_forward_pre_hook(self._pause) for layer in self._layers]
        try:
            self._encode()
        finally:
            for hook in hooks:
                hook.remove()

    def _pause(self, *_: object) -> None:
        if time.perf_counter() >= self.deadline_s and getcurrent() is self and self.parent:
            self.parent.switch()


def _linears(model: PreTrainedModel) -> list[nn.Module]:
    """The linear layers of a model's vision part, before which it can pause."""
    return [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and ("vision" in path or "visual" in path)
    ]
