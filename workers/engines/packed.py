"""Linear layers for CPUs whose weights lie in the order in which they are read.

In 16 bits they compute what bfloat16 layers do, in less time. In 8 bits they are rounded per output
channel, to nearest, and half as many bytes are read for each token, which is what decoding waits
for; what a layer reads stays in bfloat16. Needs the operators of `native`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from workers.engines import native

Bits = Literal[8, 16]

_PANEL = 48
"""Outputs that the operator computes together."""


class PackedLinear(nn.Module):
    """A linear layer with packed weights, 8-bit ones with a float32 scale for each output.

    Panels of 48 outputs, in them pairs of inputs: `[outputs / 48, inputs / 2, 48, 2]`.
    """

    weight: torch.Tensor
    scale: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, bits: Bits) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scale = linear.weight.detach(), None
        if bits == 8:
            weight = weight.float()
            scale = weight.abs().amax(dim=1).clamp(min=1e-8) / 127
            weight = (weight / scale[:, None]).round().to(torch.int8)
        bias: torch.Tensor | None = linear.bias
        self.register_buffer("weight", _pack(weight))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[..., out_features]` for `[..., in_features]`."""
        return native.linear(x, self.weight, self.scale, self.bias, self.out_features)


def _pack(weight: torch.Tensor) -> torch.Tensor:
    outputs, inputs = weight.shape
    padded = nn.functional.pad(weight, (0, 0, 0, -outputs % _PANEL))
    return padded.view(-1, _PANEL, inputs // 2, 2).transpose(1, 2).contiguous()


def pack(model: nn.Module, bits: Bits) -> None:
    """Replace the linear layers of a loaded model, the output layer too.

    A tied embedding keeps its own weights, and a vision tower all of its layers; in 16 bits, only
    layers in bfloat16 are replaced.
    """
    for path, parent in list(model.named_modules()):
        if "vision" in path or "visual" in path:
            continue
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or child.in_features % 2:
                continue
            if bits == 8 or child.weight.dtype == torch.bfloat16:
                setattr(parent, name, PackedLinear(child, bits))


def is_packed(model: nn.Module) -> bool:
    """Whether a model has such layers."""
    return any(isinstance(module, PackedLinear) for module in model.modules())
