"""From a configuration to what every command needs: task, device, settings, guidance, sampler."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from omnidistill.configuration import origin
from omnidistill.configuration.compose import build
from omnidistill.configuration.targets import function
from omnidistill.denoisers import Denoiser, Guided
from omnidistill.denoisers.routed import Routed
from omnidistill.errors import NotOffered, UserError
from omnidistill.objectives import StudentSpec
from omnidistill.samplers import FewStep, student_sampler
from omnidistill.tasks import Metric, Task
from omnidistill.training.settings import Optim, Settings


def device_of(cfg: DictConfig) -> str:
    """The device that is asked for; has torch take the number of threads that is asked for, too."""
    if cfg.threads:
        torch.set_num_threads(int(cfg.threads))
    return device_named(str(cfg.device))


def device_named(name: str) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`; a `UserError` where there is no such device."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("device=cuda but no CUDA device is available; use device=cpu or device=auto")
    return "cuda" if name != "cpu" and there else "cpu"


def settings_of(cfg: DictConfig, **changes: Any) -> Settings:
    """What the engine is told, with other values where they are given."""
    optim = Optim(**{**plain(cfg.optim), "betas": tuple(cfg.optim.betas), **changes.pop("optim", {})})
    values: dict[str, Any] = {
        "updates": cfg.updates,
        "batch": cfg.batch,
        "seed": cfg.seed,
        "precision": cfg.precision,
        "ema": cfg.ema or 0.0,
        "accumulate": cfg.accumulate,
        "recompute": cfg.get("recompute", False),
        "checkpoint_every": cfg.checkpoint.every,
        "log_every": cfg.log.every,
        "lag_every": cfg.log.get("lag", 0),
    }
    return Settings(**{**values, **changes}, optim=optim)


def plain(node: Any) -> Any:
    """A part of a configuration as lists, dictionaries and values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def task_of(cfg: DictConfig) -> Task:
    """The task of a configuration, which may have come with somebody's run."""
    task = build(cfg.task)
    if not isinstance(task, Task):
        raise UserError(f"task: _target_ '{cfg.task.get('_target_')}' is no task")
    if cfg.get("metrics"):
        task.more = function(origin.named("metrics", cfg.metrics))
    if cfg.get("primary"):
        name, _, better = str(cfg.primary).partition(":")
        task.other_primary = name != task.primary.name
        task.primary = Metric(name, better or "lower")
    return task


def guided(teacher: Denoiser, task: Task, scale: float) -> Denoiser:
    """The teacher as it is sampled from: under guidance where the run asks for it."""
    check_guidance(task, scale)
    if scale == 1.0 or task.null is None:
        return teacher
    return (
        teacher.guided(scale, task.null) if isinstance(teacher, Routed) else Guided(teacher, scale, task.null)
    )


def check_guidance(task: Task, scale: float) -> None:
    """Refuses guidance of a task that has nothing to be guided from."""
    if scale != 1.0 and task.null is None:
        raise NotOffered(f"guidance={scale} needs a conditional task with a null label; {task.name} has none")


def spec_of(cfg: DictConfig) -> StudentSpec:
    """How the student is walked while it is trained."""
    walks = tuple(plain(cfg.student.get("walks")) or ())
    return StudentSpec(cfg.student.steps, sampler_of(cfg), cfg.student.inputs, walks)


def sampler_of(cfg: DictConfig) -> FewStep:
    """The student's sampler. Runs of before have no times, shift, gamma or sizes of their own."""
    given = plain(cfg.student)
    for name in ("times", "sizes"):
        listed = given.get(name)
        if listed is not None and len(listed) != given["steps"]:
            raise UserError(
                f"student.{name} has {len(listed)} entries and student.steps is {given['steps']}; give as many {name} "
                "as steps"
            )
    others = {name: given.get(name) for name in ("times", "gamma", "block", "sizes")}
    return student_sampler(given["transition"], shift=given.get("shift", 1.0), **others)
