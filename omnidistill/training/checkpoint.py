"""A run's state as a safetensors file: models without the teacher, optimiser moments, counters. No pickle."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.training.ranks import is_sharded
from omnidistill.training.safetensors_file import (
    load_strictly,
    read_metadata,
    read_safetensors,
    refuse_others,
    write_safetensors,
)

if TYPE_CHECKING:
    from omnidistill.training.layout import Layout
    from omnidistill.training.module import Distillation


def save(module: Distillation, path: FilePath) -> None:
    """What training changes: models but for what is fixed in them, moments, counters. The first process writes what all
    hold whole; of the rest each its own shards, beside (`training.distributed`)."""
    fixed = fixed_names(module)
    state_dict = module.trained.state_dict()
    tensors = {f"model/{name}": value for name, value in state_dict.items() if name not in fixed}
    for role, optimizer in module.optimisers.all().items():
        for index, parameter in enumerate(module.optimisers.parameters(role)):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optim/{role}/{index}/{key}"] = torch.as_tensor(value)
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
    shards = {name: value for name, value in tensors.items() if is_sharded(value)}
    whole = {name: value for name, value in tensors.items() if name not in shards}

    def publish(layout: Layout | None = None) -> None:
        said = {"state": json.dumps(state)} | ({"shards": layout.text()} if layout else {})
        write_safetensors(whole, path, said)
        tidy(path, layout.folder if layout else None)

    if shards:
        from omnidistill.training import distributed

        distributed.write(shards, path, module.update, module.ranks, publish)
    elif module.ranks.main:
        publish()


def tidy(path: FilePath, named: str | None) -> None:
    """Removes the shards of the checkpoint of before, and those that a killed run left: all but the folder `named`."""
    former = re.compile(re.escape(path.stem) + r"-\d+(\.\d+)?")
    for place in path.parent.iterdir():
        if former.fullmatch(place.name) and place.name != named and not place.is_symlink() and place.is_dir():
            shutil.rmtree(place, ignore_errors=True)


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
    tensors, state, layout = _read(path)
    if state["seed"] != module.settings.seed:
        raise UserError(
            f"{path} was written with seed={state['seed']}, this run has seed={module.settings.seed}"
        )
    shards = _load_models(module, tensors, layout, path)
    named = {**tensors, **(layout.tensors if layout else {})}
    for role, optimizer in module.optimisers.all().items():
        for index, parameter in enumerate(module.optimisers.parameters(role)):
            prefix = f"optim/{role}/{index}/"
            for name in [name for name in named if name.startswith(prefix)]:
                value, key = named[name], name[len(prefix) :]
                same = value.shape == parameter.shape and key != "step"
                if name not in tensors:
                    if not same:
                        raise UserError(f"{path} holds moments of another architecture: {name}")
                    shards[name] = moment = torch.zeros_like(parameter)
                else:
                    # They take the parameter's memory format, so that sums run in the same order as before.
                    moment = torch.empty_like(parameter).copy_(laid_out(value, parameter)) if same else value
                optimizer.state[parameter][key] = moment
    _fill(module, shards, layout, path)
    _restore_counters(module, state)


def _read(path: FilePath) -> tuple[dict[str, Tensor], dict[str, Any], Layout | None]:
    """What the file itself holds, the counters, and where the rest is."""
    tensors, metadata = read_safetensors(path)
    if "state" not in metadata:
        raise UserError(f"{path} holds weights but no training state; it cannot be resumed")
    layout = None
    if "shards" in metadata:
        from omnidistill.training.layout import Layout

        layout = Layout.of(metadata["shards"], path)
    return tensors, json.loads(metadata["state"]), layout


def _fill(module: Distillation, shards: dict[str, Tensor], layout: Layout | None, path: FilePath) -> None:
    """Reads these tensors of a checkpoint in shards in place."""
    if layout:
        from omnidistill.training import distributed

        distributed.read(shards, path, layout, module.ranks)


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
    tensors, state, layout = _read(path)
    _fill(module, _load_models(module, tensors, layout, path), layout, path)
    _restore_counters(module, state)


def _load_models(
    module: Distillation, tensors: dict[str, Tensor], layout: Layout | None, path: FilePath
) -> dict[str, Tensor]:
    """Loads what the file itself holds of the models; the tensors by name that are still to be filled from shards."""
    own, fixed = module.trained.state_dict(), fixed_names(module)
    models, elsewhere = (
        {name[len("model/") :]: value for name, value in held.items() if name.startswith("model/")}
        for held in (tensors, layout.tensors if layout else {})
    )
    refuse_others({n: v for n, v in own.items() if n not in fixed}, {**models, **elsewhere}, path)
    if module.ranks.sharded:
        models = {name: laid_out(value, own[name]) for name, value in models.items()}
    load_strictly(module.trained, models, path, fixed | elsewhere.keys())
    return {f"model/{name}": own[name] for name in elsewhere}


def laid_out(value: Tensor, own: Tensor) -> Tensor:
    """A whole tensor as the shards of `own` lie, where it has any."""
    if not is_sharded(own):
        return value
    from omnidistill.training.sharded import like

    return like(value, own)
