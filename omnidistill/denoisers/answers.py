"""Between a denoiser and somebody's module: the precision it works in, and the tensor in what it answers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.errors import UserError

NAMES = ("sample", "logits", "prediction", "last_hidden_state")
"""Where the outputs of diffusers and transformers hold the answer, the first that is there."""


def dtype_of(network: nn.Module, state: Tensor) -> torch.dtype:
    """The precision a network works in: that of its first real parameter; the state's where it has none."""
    for parameter in network.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return state.dtype if state.is_floating_point() else torch.float32


def tensor_of(answer: Any, network: nn.Module) -> Tensor:
    """The tensor a network means, where it answers a tuple, a mapping or an output object of a library."""
    if isinstance(answer, Tensor):
        return answer
    found = _inside(answer)
    if found is None:
        raise UserError(
            f"{type(network).__name__} answered a {type(answer).__name__} in which it is not clear what to take; "
            "wrap it in a module that returns the tensor"
        )
    place, tensor = found
    if place not in NAMES:
        warnings.warn(
            f"the network {type(network).__name__} answers a {type(answer).__name__}; its {place} is taken",
            stacklevel=2,
        )
    return tensor


def _inside(answer: Any) -> tuple[str, Tensor] | None:
    for name in NAMES:
        value = answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
        if isinstance(value, Tensor):
            return name, value
    if isinstance(answer, tuple | list) and answer and isinstance(answer[0], Tensor):
        return "first entry", answer[0]
    if isinstance(answer, Mapping):
        tensors = [(str(name), value) for name, value in answer.items() if isinstance(value, Tensor)]
        return tensors[0] if len(tensors) == 1 else None
    return None
