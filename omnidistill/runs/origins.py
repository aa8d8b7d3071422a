"""The network that students and critics start from, with what the teacher knows."""

from __future__ import annotations

from pathlib import Path as FilePath

import torch
from omegaconf import DictConfig

from omnidistill.context import Batch
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.denoisers.plausible import enough
from omnidistill.objectives import Denoising
from omnidistill.random import generator
from omnidistill.runs.configured import settings_of
from omnidistill.runs.student_options import adapter_of
from omnidistill.runs.teachers import base_of
from omnidistill.tasks import Task
from omnidistill.training.frozen import twin
from omnidistill.training.memory import check_network
from omnidistill.training.ranks import here
from omnidistill.training.roles import cast
from omnidistill.training.safetensors_file import load_strictly, read_safetensors, write_safetensors

FIT_WITHOUT_CONDITION = 0.1
"""Share of the samples whose label is dropped while a network is fitted, as teachers themselves are trained (Ho &
Salimans 2022, sec. 3.1)."""


def origin_of(
    cfg: DictConfig, task: Task, teacher: Denoiser, folder: FilePath, device: str
) -> NetworkDenoiser:
    """A network with the teacher's knowledge, for students and critics to start from.

    That is the teacher's own network; a closed form has none, so one is first fitted to its beliefs. What stays fixed
    is the teacher's own, not a copy: what the user froze, and with adapters everything.
    """
    teacher = base_of(cfg, task, teacher, device)
    if isinstance(teacher, NetworkDenoiser):
        return twin(teacher) if adapter_of(cfg) is None else twin(teacher, teacher.parameters())
    return fitted(cfg, task, teacher, folder, device)


def fitted(
    cfg: DictConfig, task: Task, teacher: Denoiser, folder: FilePath, device: str, name: str = "fit"
) -> NetworkDenoiser:
    """The task's network, fitted in `fit.updates` to the teacher's beliefs; where there are none, as it is made."""
    check_network(task.network)
    torch.manual_seed(cfg.seed)  # layers draw their initial weights without a generator
    network = NetworkDenoiser(task.network().to(device), task.path, **task.reading())
    if cfg.fit.updates < 1:
        return network
    kept = folder / "checkpoints" / f"{name}.safetensors"
    if cfg.resume and kept.is_file():
        load_strictly(network, read_safetensors(kept)[0], kept)
        return network
    from omnidistill.training.loop import run
    from omnidistill.training.module import Distillation

    changes = {"updates": cfg.fit.updates, "optim": {"lr": cfg.fit.lr or cfg.optim.lr}}
    if cfg.fit.batch:
        changes |= {"batch": cfg.fit.batch, "accumulate": min(cfg.accumulate, cfg.fit.batch)}
    # Also about the null label: students, critics and samplers that start from here may ask for it.
    dropped = 0.0 if task.null is None else FIT_WITHOUT_CONDITION
    objective = Denoising(weighting="output", target="teacher", drop_condition=dropped)
    ranks = here()
    module = Distillation(
        cast(network, None, objective, cfg.ema or 0.0),
        teacher,
        objective,
        settings_of(cfg, **changes),
        task.like,
        null=task.null,
        ranks=ranks,
    )
    run(
        module,
        task,
        folder / "checkpoints" / name,
        device=device,
        title="fitting a network to the teacher",
        log=False,
    )
    fitted: NetworkDenoiser = module.trained["ema"]  # type: ignore[assignment]
    if ranks.main:
        write_safetensors(dict(fitted.state_dict()), kept)
    return fitted


def samples_of(task: Task, seed: int) -> Batch:
    """Clean samples to ask a teacher about: of the training data, else held-out ones that come with the package."""
    count, g = enough(task.shape), generator(seed, "probe")
    batch = task.batch(count, g)
    return batch if batch.x0 is not None else task.batch(count, g, "held_out")
