"""What its user froze: shared by the copies of a model instead of copied, and never trained, averaged or clipped.

A network may come with some parameters that need no gradient (a pretrained base under an adapter, a fixed codec). Those
stay as they are in every role, so that all roles can hold the same ones. A network that is frozen as a whole is a
teacher that was put to rest, not one with nothing to learn: its copies are trained as a whole.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn

from omnidistill.errors import UserError, unknown

Module = TypeVar("Module", bound=nn.Module)


def trainable(model: nn.Module) -> list[str]:
    """Names of the parameters that a copy of this model may train, each tied one once."""
    named = list(model.named_parameters())
    free = [name for name, parameter in named if parameter.requires_grad]
    return free or [name for name, _ in named]


def fixed(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that stay as they are; none where the model is frozen as a whole."""
    free = set(trainable(model))
    return [parameter for name, parameter in model.named_parameters() if name not in free]


KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "convolutions": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    "linear": (nn.Linear,),
}


def freeze(network: nn.Module, patterns: Iterable[str]) -> None:
    """Fixes what the patterns name: a kind of layer (`KINDS`), or modules by their names or the ends of these.

    Raises:
        UserError: nothing is named so, or nothing would be left to train.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    for pattern in patterns:
        if pattern in KINDS:
            found = [m for m in modules.values() if isinstance(m, KINDS[pattern])]
        else:
            found = [m for name, m in modules.items() if name == pattern or name.endswith(f".{pattern}")]
        if not found and pattern not in KINDS:
            raise unknown(f"module of {type(network).__name__} to freeze", pattern, [*modules, *KINDS])
        for module in found:
            module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(
            f"student.frozen={list(patterns)} leaves nothing of {type(network).__name__} to train"
        )


def twin(model: Module, shared: Iterable[Tensor] | None = None) -> Module:
    """A copy that holds the very same `shared` parameters (by default those that stay fixed), its own of all else."""
    held = fixed(model) if shared is None else shared
    return copy.deepcopy(model, {id(parameter): parameter for parameter in held})
