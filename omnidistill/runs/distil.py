"""Teacher to student, both evaluated, everything written."""

from __future__ import annotations

import resource
import sys
from pathlib import Path as FilePath
from typing import Any

import torch
from omegaconf import DictConfig

from omnidistill.config import build, save_config
from omnidistill.denoisers import Told
from omnidistill.runs import setup
from omnidistill.runs.evaluate import judge
from omnidistill.student import Recipe, assemble, save
from omnidistill.tasks import Task


def distill(cfg: DictConfig) -> FilePath:
    """Runs the recipe on the task and writes student, metrics, samples and page into `cfg.out`."""
    from omnidistill.training.loop import run
    from omnidistill.training.module import Distillation
    from omnidistill.training.roles import cast

    out = FilePath(cfg.out)
    device = setup.device_of(cfg)
    task: Task = build(cfg.task)
    objective = setup.objective_of(cfg, task)
    teacher = setup.teacher_of(cfg, task, device)
    sampled_teacher = setup.guided(teacher, task, cfg.guidance)
    save_config(cfg, out)
    origin = setup.origin_of(cfg, task, teacher, out, device)
    student, recipe = setup.student_of(cfg, task, origin, device)
    bank = setup.bank_of(objective.bank, task, sampled_teacher, cfg.seed, device)
    torch.manual_seed(cfg.seed)  # initial weights of heads
    module = Distillation(
        cast(student, origin, objective, cfg.ema or 0.0),
        teacher,
        objective,
        setup.settings_of(cfg),
        lambda count, where: task.like(count, where),
        student=setup.spec_of(cfg),
        null=task.null,
        bank=bank,
    ).to(device)
    run(module, task, out, device=device, resume=cfg.resume, title=f"distilling by {cfg.recipe.name}")
    ema = module.trained["ema"].eval()
    save(ema, recipe, out)  # type: ignore[arg-type]
    finished = _told(ema, recipe)
    judge(cfg, task, sampled_teacher, finished, training_record(module), out)
    return out


def _told(ema: Any, recipe: Recipe) -> Any:
    return ema if recipe.guidance is None else Told(ema, recipe.guidance)


def training_record(module: Any) -> dict[str, Any]:
    """The `training` section of metrics.json."""
    seen = module.settings.batch * len(module.cast.turns) * module.update
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    if module.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1024**2
    return {
        "student_updates": module.update,
        "seconds": round(module.seconds, 3),
        "samples_per_second": round(seen / max(module.seconds, 1e-9), 2),
        "peak_memory_mb": round(peak, 1),
        "calls": dict(module.calls),
    }


__all__ = ["assemble", "distill", "training_record"]
