"""How many tokens a device has memory for: what the cache of keys and values is sized by.

Measured when the weights are loaded. On a CPU the cache takes memory only as it is used, so there
may be more slots than would fit at full length; on an accelerator all of it is taken at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from broker.errors import ConfigurationError
from workers.engines.base import EngineOptions

_CPU_CONTEXT = 4096
"""Default context length on a CPU, where prefilling more takes minutes."""
_CPU_SHARE, _CUDA_SHARE = 0.5, 0.8
"""Shares of the free memory that keys and values may take."""


@dataclass(frozen=True, slots=True)
class Room:
    """Longest sequence, and positions of all sequences together; bytes of one position."""

    context_length: int
    tokens: int
    token_bytes: int

    def __str__(self) -> str:
        size = self.tokens * self.token_bytes / 2**30
        return f"{self.tokens} tokens together ({size:.2f} GiB, {self.token_bytes} bytes each)"


def measure(options: EngineOptions, longest: int, token_bytes: Mapping[torch.device, int]) -> Room:
    """Size the cache for a model that takes sequences of up to `longest` tokens.

    `token_bytes` are those of one position on each device; the one with least room decides.

    Raises:
        ConfigurationError: the context length asked for is beyond the model or the memory.
    """
    wanted = options.context_length
    if wanted is not None and wanted > longest:
        raise ConfigurationError(f"the model's context length is {longest} at most")
    room = {device: _positions(device, each) for device, each in token_bytes.items()}
    device = min(room, key=room.__getitem__)
    fits = room[device]
    if device.type == "cpu":
        length = wanted or min(longest, _CPU_CONTEXT, fits)
    else:
        length = wanted or min(longest, fits // options.slots)
        fits = fits if length * options.slots <= fits else 0
    if not 1 < length <= fits:
        raise ConfigurationError(
            f"{options.slots} slots of {length} tokens do not fit into the memory that is free on "
            f"{device}: {free_bytes(device) / 2**30:.1f} GiB, {token_bytes[device]} bytes a token. "
            "Give fewer slots (--limit-model-concurrency) or a shorter --context-length."
        )
    return Room(length, min(fits, length * options.slots), sum(token_bytes.values()))


def _positions(device: torch.device, token_bytes: int) -> int:
    share = _CPU_SHARE if device.type == "cpu" else _CUDA_SHARE
    return int(free_bytes(device) * share) // token_bytes


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; of a container's memory, what its limit leaves."""
    if device.type != "cpu":
        return torch.cuda.mem_get_info(device)[0]
    free = _available()
    return min(free, _free_in_container() or free)


def _available() -> int:
    try:
        fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        return next(int(kib) * 1024 for name, kib, *_ in fields if name == "MemAvailable:")
    except OSError:  # not Linux: half of what there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_in_container() -> int | None:
    limits = Path("/sys/fs/cgroup")
    try:
        limit = int((limits / "memory.max").read_text())
        return max(0, limit - int((limits / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return None
