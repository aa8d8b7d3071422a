"""The blocks of a network: what is sharded, or computed a second time, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from omnidistill.networks.forward_mode import tangent_flows

SMALL = 1 << 12
"""Parameters below which a module is no block: to gather or to recompute it would cost more than it saves."""


def blocks(network: nn.Module) -> list[nn.Module]:
    """The parts that are gathered one at a time: the entries of the network's lists of modules, outermost lists alone.

    Not the one that has the layer for discriminator heads inside: a gradient that comes in there would find its
    parameters in shards.
    """
    found: list[nn.Module] = []
    layer = getattr(network, "feature_module", "")

    def look(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            if not isinstance(child, nn.ModuleList):
                look(child, f"{prefix}{name}.")
                continue
            for index, entry in enumerate(child):
                large = sum(p.numel() for p in entry.parameters()) >= SMALL
                inside = layer.startswith(f"{prefix}{name}.{index}.")
                if large and not inside and not isinstance(entry, nn.ModuleList | nn.ModuleDict):
                    found.append(entry)

    look(network, "")
    return found


def recompute(network: nn.Module) -> None:
    """Keeps of each block its input alone; what is inside is computed again in the backward pass (Chen et al. 2016,
    "Training deep nets with sublinear memory cost"). The numbers stay, dropout included; a step costs a third more.
    Blocks that a tangent flows through (`torch.func.jvp`) keep everything."""
    for block in blocks(network):
        block.forward = partial(_sparing, block.forward)


def _sparing(forward: Callable[..., Any], *inputs: Any, **keywords: Any) -> Any:
    # What a tangent flows through cannot be computed again with it.
    if tangent_flows():
        return forward(*inputs, **keywords)
    return checkpoint(forward, *inputs, use_reentrant=False, **keywords)
