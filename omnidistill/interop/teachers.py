"""`omnidistill.teacher(PATH)`: what a folder holds, or a file with the class that its weights are of, as a denoiser to
distil from Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import nn

from omnidistill.configuration import origin
from omnidistill.configuration.instantiation import build, trusting
from omnidistill.configuration.targets import reachable
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.foreign import Foreign
from omnidistill.interop import folder as libraries
from omnidistill.interop import hub
from omnidistill.paths import Path, rectified_flow
from omnidistill.student import read_denoiser, read_recipe
from omnidistill.tasks import Task


def teacher(
    source: str | FilePath,
    *,
    network: str | Callable[[], nn.Module] | None = None,
    path: Path | None = None,
    reading: Mapping[str, Any] | None = None,
    shape: Sequence[int] | None = None,
    time_module: str | None = None,
    trust: Sequence[str] = (),
    **options: Any,
) -> NetworkDenoiser:
    """The teacher at `source`, on the CPU in float32.

    A masked language model is asked in its tokenizer's numbers, and the mask is `teacher.path.mask_id`, whichever token
    it is in the model itself.

    Args:
        source: a folder of diffusers, of a model with its scheduler or of a pipeline; of transformers; of
            `omnidistill train` or `distill`; or a file of weights, safetensors or a checkpoint of Lightning or torch
            that holds tensors and plain values alone; or `hub:ORGANISATION/NAME[@REVISION]`, where there is a network.
        network: of a file: its class, `package.module:Class` or what makes a fresh one.
        path, reading: of a file: the path that it was trained on, the rectified flow if not given, and keywords of
            `NetworkDenoiser`; of diffusers' folders they are read off the scheduler, and a reading counts above that.
        shape: of one sample, where the folder does not say it.
        time_module: the submodule that embeds the time, see `NetworkDenoiser`.
        trust: packages that a folder of this project may be built from.
        options: what else a folder does not say, e.g. `mask_token="<|mask|>"`, `tokenizer="other/tokenizer.json"`.

    Raises:
        UserError: nothing there, or nothing that is read, with what would mend it.

    Example:
        >>> teacher = omnidistill.teacher("my_pipeline")
        >>> student = omnidistill.distill(teacher, "dmd2", data=latents, condition=states, out="runs/mine")
    """
    source = FilePath(hub.fetched(source) if isinstance(source, str) else source)
    if not source.exists():
        raise UserError(
            f"'{source}' is no folder and no file; give that of a teacher, of diffusers or of transformers"
        )
    if network is not None:
        return _of_a_class(source, network, path, dict(reading or {}), shape, time_module)
    if path is not None:
        raise UserError(f"path= is that of a file of weights (network=); {source} says its own")
    if source.is_file():
        raise UserError(f"{source} is a file of weights: name their class, network='package.module:Class'")
    about = {**options, "shape": shape and list(shape), "reading": reading, "time_module": time_module}
    for kind in ("teacher", "student"):
        if (source / f"{kind}.json").is_file():
            if said := [key for key, value in about.items() if value is not None]:
                raise UserError(f"'{source}' says all that it is; leave {', '.join(said)} out")
            return _of_this_project(source, kind, trust)
    known = libraries.describe(source, about)
    if known is None:
        raise UserError(
            f"'{source}' holds neither a teacher of omnidistill nor a model of diffusers or transformers; of a network "
            "of your own give its weights and its class: teacher(FILE, network='package.module:Class')"
        )
    with torch.random.fork_rng(devices=[]):
        made = build(trusting(known["foreign"], ())).opened(source)
    made.named, made.source = known["foreign"], str(source)
    return made


def _of_a_class(
    source: FilePath,
    network: str | Callable[[], nn.Module],
    path: Path | None,
    reading: dict[str, Any],
    shape: Sequence[int] | None,
    time_module: str | None,
) -> NetworkDenoiser:
    if isinstance(network, str):
        from omnidistill.configuration.targets import function

        reachable()
        network = function(origin.named("network", network))
    described = Foreign(network, tuple(shape or ()), path or rectified_flow(), reading, time_module)
    with torch.random.fork_rng(devices=[]):
        return described.opened(source)


def _of_this_project(folder: FilePath, kind: str, trust: Sequence[str]) -> NetworkDenoiser:
    recipe = read_recipe(folder, kind)
    if recipe.task is None:
        raise UserError(
            f"the {kind} in {folder} was made from a module of your own: give NetworkDenoiser(network, path)"
        )
    task = build(trusting(recipe.task, trust))
    if not isinstance(task, Task):
        raise UserError(f"{folder / kind}.json: {recipe.task['_target_']} is no task")
    made = read_denoiser(folder, kind, task, trust=trust)[0]
    if not isinstance(made, NetworkDenoiser):
        raise UserError(
            f"the {kind} in {folder} is sampled in a way of its own; it can teach no other from Python"
        )
    return made
