"""A run's state as one safetensors file: models without the teacher, optimiser moments, counters. No pickle."""

from __future__ import annotations

import json
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import torch

from omnidistill.errors import UserError
from omnidistill.training.safetensors_file import (
    load_strictly,
    read_metadata,
    read_safetensors,
    write_safetensors,
)

if TYPE_CHECKING:
    from omnidistill.training.module import Distillation


def save(module: Distillation, path: FilePath) -> None:
    tensors = {f"model/{name}": value for name, value in module.trained.state_dict().items()}
    for role, optimizer in module.role_optimizers().items():
        for index, parameter in enumerate(module.parameters_of(role)):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optim/{role}/{index}/{key}"] = torch.as_tensor(value)
    state = {
        "update": module.update,
        "role_updates": dict(module.role_updates),
        "calls": dict(module.calls),
        "seconds": module.seconds,
        "seed": module.settings.seed,
    }
    write_safetensors(tensors, path, {"state": json.dumps(state)})


def load(module: Distillation, path: FilePath) -> None:
    """Strictly: every tensor of the file is used and every model and moment is found."""
    tensors, metadata = read_safetensors(path)
    if "state" not in metadata:
        raise UserError(f"{path} holds weights but no training state; it cannot be resumed")
    state = json.loads(metadata["state"])
    if state["seed"] != module.settings.seed:
        raise UserError(
            f"{path} was written with seed={state['seed']}, this run has seed={module.settings.seed}"
        )
    models = {name[len("model/") :]: value for name, value in tensors.items() if name.startswith("model/")}
    load_strictly(module.trained, models, path)
    for role, optimizer in module.role_optimizers().items():
        for index, parameter in enumerate(module.parameters_of(role)):
            prefix = f"optim/{role}/{index}/"
            for key in [name[len(prefix) :] for name in tensors if name.startswith(prefix)]:
                value = tensors[prefix + key]
                same = value.shape == parameter.shape and key != "step"
                # Moments take the parameter's memory format, so that sums run in the same order as before.
                moment = torch.empty_like(parameter).copy_(value) if same else value
                optimizer.state[parameter][key] = moment
    _restore_counters(module, state)


def _restore_counters(module: Distillation, state: dict[str, Any]) -> None:
    module.update, module.seconds = state["update"], state["seconds"]
    module.role_updates.update(state["role_updates"])
    module.calls.update(state["calls"])


def peek(path: FilePath) -> int:
    """The number of student updates that a checkpoint holds."""
    metadata = read_metadata(path)
    if "state" not in metadata:
        raise UserError(f"{path} holds weights but no training state; it cannot be resumed")
    return int(json.loads(metadata["state"])["update"])


def load_models(module: Distillation, path: FilePath) -> None:
    """Models and counters of a finished run, without optimisers."""
    tensors, metadata = read_safetensors(path)
    models = {name[len("model/") :]: value for name, value in tensors.items() if name.startswith("model/")}
    load_strictly(module.trained, models, path)
    _restore_counters(module, json.loads(metadata["state"]))
