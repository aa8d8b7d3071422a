"""A network with weights drawn anew: its own features without anything learned."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def redrawn(network: Module, g: torch.Generator | None = None) -> Module:
    """The network, changed in place: every weight matrix or kernel `w ~ N(0, 1 / fan_in)`, which keeps the size of what
    passes through (LeCun et al. 1998); scales 1, offsets 0.

    Args:
        g: None draws from torch's own generator, as layers do when they are made.
    """
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim < 2:
                parameter.fill_(0.0 if "bias" in name else 1.0)
                continue
            device = parameter.device if g is None else g.device
            drawn = torch.randn(parameter.shape, generator=g, device=device, dtype=torch.float32)
            fan_in = parameter.shape[1:].numel()
            parameter.copy_(fan_in**-0.5 * drawn)
    return network
