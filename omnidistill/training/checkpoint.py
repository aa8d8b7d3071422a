"""A run's state as one safetensors file: models without the teacher, optimiser moments, counters. No pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omnidistill.errors import UserError

if TYPE_CHECKING:
    from omnidistill.training.module import Distillation


def write_safetensors(
    tensors: dict[str, Tensor], path: FilePath, metadata: dict[str, str] | None = None
) -> None:
    """Writes beside the target and renames: a kill leaves the old file or the new one, never half of one."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    save_file(_apart(tensors), temporary, metadata)
    os.replace(temporary, path)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU; of tied weights each name gets a copy of its own, since the format knows no sharing."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return apart


def read_safetensors(path: FilePath) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata; a `UserError` for a missing, truncated or foreign file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}); delete it or restore a copy"
        ) from error


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


def load_strictly(model: torch.nn.Module, tensors: dict[str, Tensor], path: FilePath) -> None:
    """`load_state_dict` whose complaint is one line: how many names differ, and the first that does."""
    own = model.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape]
    if missing or extra or shapes:
        example = (
            f"'{shapes[0]}' is {tuple(tensors[shapes[0]].shape)} there and {tuple(own[shapes[0]].shape)} here"
            if shapes
            else f"'{(missing or extra)[0]}' is {'missing there' if missing else 'unknown here'}"
        )
        raise UserError(
            f"{path} holds weights of another architecture: {len(missing)} missing, {len(extra)} unknown, "
            f"{len(shapes)} of another shape, e.g. {example}"
        )
    model.load_state_dict(tensors)


def peek(path: FilePath) -> int:
    """The number of student updates that a checkpoint holds."""
    metadata = read_safetensors(path)[1]
    if "state" not in metadata:
        raise UserError(f"{path} holds weights but no training state; it cannot be resumed")
    return int(json.loads(metadata["state"])["update"])


def load_models(module: Distillation, path: FilePath) -> None:
    """Models and counters of a finished run, without optimisers."""
    tensors, metadata = read_safetensors(path)
    models = {name[len("model/") :]: value for name, value in tensors.items() if name.startswith("model/")}
    load_strictly(module.trained, models, path)
    _restore_counters(module, json.loads(metadata["state"]))
