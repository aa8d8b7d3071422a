"""Trains a teacher on a task's data."""

from __future__ import annotations

from pathlib import Path as FilePath

import torch
from omegaconf import DictConfig

from omnidistill.configuration.compose import save_config
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.evaluation.environment import environment
from omnidistill.runs import folders, setup
from omnidistill.student import Recipe, described, save
from omnidistill.training.memory import check_network
from omnidistill.training.ranks import here
from omnidistill.training.resume import check


def train(cfg: DictConfig) -> FilePath:
    """Trains the task's network by denoising and writes `teacher.safetensors` and `teacher.json` into `cfg.out`."""
    from omnidistill.training.loop import run
    from omnidistill.training.module import Distillation
    from omnidistill.training.roles import cast
    from omnidistill.training.sharded import apart, gathered

    out = FilePath(cfg.out)
    device = setup.device_of(cfg)
    task = setup.task_of(cfg)
    objective = setup.objective_of(cfg, task)
    if cfg.resume:
        check(out, setup.settings_of(cfg))
    check_network(task.network)
    ranks = here(cfg.strategy)
    if ranks.main:
        save_config(cfg, out)
    torch.manual_seed(cfg.seed)
    network = NetworkDenoiser(task.network().to(device), task.path, **task.reading())
    module = Distillation(
        cast(network, None, objective, cfg.ema or 0.0),
        None,
        objective,
        setup.settings_of(cfg),
        task.like,
        null=task.null,
        ranks=ranks,
    ).to(device)
    average = apart(module)
    run(module, task, out, device=device, resume=cfg.resume, title="training a teacher")
    student = gathered(module, average).eval()
    if not ranks.main:
        return out
    made = {
        "command": f"omnidistill train task={task.name}",
        "seed": cfg.seed,
        "updates": cfg.updates,
        "batch": cfg.batch,
        "seconds": round(module.seconds, 1),
        "environment": environment(device),
    }
    recipe = Recipe(task=described(setup.plain(cfg.task), task), reading=network.reading(), made_by=made)
    save(student, recipe, out, "teacher")
    folders.check_whole(out, ("config.yaml", "teacher.safetensors", "teacher.json"))
    return out
