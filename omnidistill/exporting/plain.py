"""A student's network as the library knows it: adapters added up, and what it is always told the same folded in."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.second import Second, time_modules
from omnidistill.errors import UserError
from omnidistill.exporting.walk import Walk


def merged(network: nn.Module) -> nn.Module:
    """A copy with adapters added to the weights that they lie over: `W + (alpha / rank) B A`."""
    network = copy.deepcopy(network)
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        return network
    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, module.get_base_layer())
    return network


@torch.no_grad()
def told_shift(inner: NetworkDenoiser, walk: Walk) -> Tensor | None:
    """What a second time and a guidance scale add to the embedding of time, Float[width], where both are the same in
    every step; None for a network that is told neither.

    Raises:
        UserError: the second time changes from step to step, which a plain network cannot be told.
    """
    network = inner.network
    if not isinstance(network, Second):
        if inner.told_target or walk.guidance is not None:
            raise UserError(
                f"{type(network).__name__} has a second time or a guidance scale of its own, which no other library "
                "knows; format=safetensors or onnx keeps them"
            )
        return None
    if len(walk.targets) > 1:
        raise UserError(
            "the student is told where each of its steps leads, which the library's own network cannot be; "
            "format=safetensors or onnx keeps that"
        )
    found = None
    for module, value in ((network.target_time, next(iter(walk.targets))), (network.guidance, walk.guidance)):
        if isinstance(module, nn.Module) and value is not None:
            more = module(torch.full((1,), value))[0]
            found = more if found is None else found + more
    return found


def folded(inner: NetworkDenoiser, walk: Walk) -> nn.Module:
    """A copy of the network with adapters merged and what it is told added to the bias of the last layer of where it
    embeds the time."""
    shift = told_shift(inner, walk)
    network = merged(inner.network)
    if not isinstance(network, Second):
        return network
    bare: nn.Module = network.network
    if shift is not None:
        for layer in last_layers(network.network, inner.time_module):
            bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
            layer.bias = nn.Parameter(bias + shift.to(bias.dtype))
    for place in time_modules(bare, inner.time_module):
        place._forward_hooks.clear()  # the hook of `Second`, which is gone
    return bare


def last_layers(network: nn.Module, time_module: str | None) -> list[nn.Linear]:
    """The layers whose output is the embedding of time."""
    layers = []
    for place in time_modules(network, time_module):
        named = place.named_modules()
        linear = [m for name, m in named if isinstance(m, nn.Linear) and "lora_" not in name]
        if not linear:
            raise UserError(
                f"{type(place).__name__} has no last linear layer that a constant could be added to; "
                "format=safetensors or onnx"
            )
        layers.append(linear[-1])
    return layers
