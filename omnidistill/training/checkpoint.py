"""A run's state as one safetensors file: models without the teacher, optimiser moments, counters. No pickle."""

from __future__ import annotations

import json
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.training.ranks import is_sharded, whole
from omnidistill.training.safetensors_file import (
    load_strictly,
    read_metadata,
    read_safetensors,
    write_safetensors,
)

if TYPE_CHECKING:
    from omnidistill.training.module import Distillation


def save(module: Distillation, path: FilePath) -> None:
    """What training changes: models but for what is fixed in them, moments, counters; by the first process. Shards are
    gathered, one at a time, so that any number of processes can go on from the file."""
    fixed = fixed_names(module)
    state_dict = module.trained.state_dict()
    tensors: dict[str, Tensor] = {}

    def add(name: str, value: Any) -> None:
        value = whole(torch.as_tensor(value))
        if module.ranks.main:
            tensors[name] = value.cpu() if module.ranks.sharded else value

    for name, value in state_dict.items():
        if name not in fixed:
            add(f"model/{name}", value)
    for role, optimizer in module.optimisers.all().items():
        for index, parameter in enumerate(module.optimisers.parameters(role)):
            for key, value in optimizer.state.get(parameter, {}).items():
                add(f"optim/{role}/{index}/{key}", value)
    if not module.ranks.main:
        return
    state = {
        "update": module.update,
        "role_updates": dict(module.role_updates),
        "calls": dict(module.calls),
        "seconds": module.seconds,
        "seed": module.settings.seed,
        "updates": module.settings.updates,
        "bound_to_end": module.bound_to_end,
        "threads": torch.get_num_threads(),
    }
    write_safetensors(tensors, path, {"state": json.dumps(state)})


def fixed_names(module: Distillation) -> set[str]:
    """Names of `module.trained.state_dict()` that never change: they come with the teacher again."""
    names = set()
    for model, free in module.cast.trainable.items():
        named = dict(module.trained[model].named_parameters(remove_duplicate=False))
        moving = {id(named[name]) for name in free}
        names |= {f"{model}.{name}" for name, parameter in named.items() if id(parameter) not in moving}
    return names


def load(module: Distillation, path: FilePath) -> None:
    """Strictly: every tensor of the file is used and every model and moment is found."""
    tensors, state = _read(path)
    if state["seed"] != module.settings.seed:
        raise UserError(
            f"{path} was written with seed={state['seed']}, this run has seed={module.settings.seed}"
        )
    models = {name[len("model/") :]: value for name, value in tensors.items() if name.startswith("model/")}
    _load_models(module, models, path)
    for role, optimizer in module.optimisers.all().items():
        for index, parameter in enumerate(module.optimisers.parameters(role)):
            prefix = f"optim/{role}/{index}/"
            for key in [name[len(prefix) :] for name in tensors if name.startswith(prefix)]:
                value = tensors[prefix + key]
                same = value.shape == parameter.shape and key != "step"
                # Moments take the parameter's memory format, so that sums run in the same order as before.
                moment = torch.empty_like(parameter).copy_(laid_out(value, parameter)) if same else value
                optimizer.state[parameter][key] = moment
    _restore_counters(module, state)


def _read(path: FilePath) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, metadata = read_safetensors(path)
    if "state" not in metadata:
        raise UserError(f"{path} holds weights but no training state; it cannot be resumed")
    return tensors, json.loads(metadata["state"])


def _restore_counters(module: Distillation, state: dict[str, Any]) -> None:
    module.update, module.seconds = state["update"], state["seconds"]
    module.role_updates.update(state["role_updates"])
    module.calls.update(state["calls"])
    module.bound_to_end = state.get("bound_to_end", False)


def state_of(path: FilePath) -> dict[str, Any]:
    """The training state that a checkpoint holds beside its tensors."""
    metadata = read_metadata(path)
    if "state" not in metadata:
        raise UserError(f"{path} holds weights but no training state; it cannot be resumed")
    return dict(json.loads(metadata["state"]))


def peek(path: FilePath) -> int:
    """The number of student updates that a checkpoint holds."""
    return int(state_of(path)["update"])


def load_models(module: Distillation, path: FilePath) -> None:
    """Models and counters of a finished run, without optimisers."""
    tensors, state = _read(path)
    models = {name[len("model/") :]: value for name, value in tensors.items() if name.startswith("model/")}
    _load_models(module, models, path)
    _restore_counters(module, state)


def _load_models(module: Distillation, models: dict[str, Tensor], path: FilePath) -> None:
    if module.ranks.sharded:
        own = module.trained.state_dict()
        models = {
            name: laid_out(value, own[name]) if name in own else value for name, value in models.items()
        }
    load_strictly(module.trained, models, path, fixed_names(module))


def laid_out(value: Tensor, own: Tensor) -> Tensor:
    """A whole tensor as the shards of `own` lie, where it has any."""
    if not is_sharded(own):
        return value
    from omnidistill.training.sharded import like

    return like(value, own)
