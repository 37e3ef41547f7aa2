"""8-bit weights on CPUs: a linear layer for each of a loaded model's own.

Rounded per output channel, to nearest; what a layer reads stays in bfloat16. Half the bytes are
read for each token, which is what decoding waits for. Needs the operators of `native`.
"""

from __future__ import annotations

import torch
from torch import nn

from workers.engines import native

_BLOCK = 16
"""Outputs that the operator computes together."""


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights, a float32 scale for each output, and the bias as it was.

    Weights lie in the order in which they are read: blocks of 16 outputs, pairs of inputs.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-8) / 127
        rounded = (weight / scale[:, None]).round().to(torch.int8)
        padded = nn.functional.pad(rounded, (0, 0, 0, -linear.out_features % _BLOCK))
        blocks = padded.view(-1, _BLOCK, linear.in_features // 2, 2).transpose(1, 2)
        self.register_buffer("weight", blocks.contiguous())
        self.register_buffer("scale", scale)
        bias: torch.Tensor | None = linear.bias
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[..., out_features]` for `[..., in_features]`."""
        return native.linear_int8(x, self.weight, self.scale, self.bias)


def convert(model: nn.Module) -> None:
    """Replace the linear layers of a loaded model, the output layer too.

    A tied embedding keeps its own weights, and a vision tower all of its layers.
    """
    for path, parent in list(model.named_modules()):
        if "vision" in path or "visual" in path:
            continue
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.in_features % 2 == 0:
                setattr(parent, name, Int8Linear(child))


def is_converted(model: nn.Module) -> bool:
    """Whether a model has such layers."""
    return any(isinstance(module, Int8Linear) for module in model.modules())
