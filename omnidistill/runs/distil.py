"""Teacher to student, both evaluated, everything written."""

from __future__ import annotations

import resource
import sys
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from omegaconf import DictConfig

from omnidistill.configuration.compose import save_config
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.denoisers.plausible import heed
from omnidistill.denoisers.routed import Routed
from omnidistill.errors import UserError
from omnidistill.objectives import Weighted
from omnidistill.runs import folders, pairs, setup
from omnidistill.runs.evaluate import judge
from omnidistill.samplers.walker import walkers
from omnidistill.student import Recipe, described, save
from omnidistill.tasks import Task
from omnidistill.training.ranks import here
from omnidistill.training.resume import check

if TYPE_CHECKING:
    from omnidistill.training.module import Distillation


WRITTEN = ("config.yaml", "student.safetensors", "student.json", "metrics.json", "report.html")


class Distilled(NamedTuple):
    """The outcome of training: the averaged student as it is sampled, its description, and the module behind it. Where
    networks are sharded the student is whole in the first process alone."""

    student: Denoiser
    recipe: Recipe
    module: Distillation


def distill(cfg: DictConfig) -> FilePath:
    """Runs the recipe on the task and writes student, metrics, samples and page into `cfg.out`."""
    out = FilePath(cfg.out)
    task = setup.task_of(cfg)
    device = setup.device_of(cfg)
    teacher = setup.teacher_of(cfg, task, device)
    # What the recipe lacks is said before anything is written.
    setup.judged_by_rewards(task, setup.objective_of(cfg, task))
    setup.of_student(cfg, task)
    if cfg.resume:
        check(out, setup.settings_of(cfg))
    ranks = here(cfg.strategy)
    if ranks.main:
        save_config(cfg, out)
    student, recipe, module = train_student(cfg, task, teacher, out, device)
    if not ranks.main:  # what is left is one process's work
        return out
    save(student, recipe, out)
    keep_teacher(cfg, task, teacher, student, out)
    judge(cfg, task, setup.guided(teacher, task, cfg.guidance), student, training_record(module), out)
    folders.check_whole(out, WRITTEN)
    return out


def train_student(
    cfg: DictConfig, task: Task, teacher: Denoiser, out: FilePath, device: str, *, everywhere: bool = False
) -> Distilled:
    """The training alone; checkpoints and logs go into `out`.

    Args:
        everywhere: of several processes each gets the whole student, not the first alone.
    """
    from omnidistill.training.loop import run
    from omnidistill.training.module import Distillation
    from omnidistill.training.roles import cast
    from omnidistill.training.sharded import apart, gathered

    objective = setup.objective_of(cfg, task)
    if cfg.get("teacher_check", True):
        heed(teacher, setup.samples_of(task, cfg.seed), device, cfg.seed)
    asked, guided = teacher.calls, setup.guided(teacher, task, cfg.guidance)
    if cfg.get("pairs") is None:
        bank = pairs.bank_of(objective.bank, task, guided, cfg.seed, device)
    else:
        bank = pairs.stored(FilePath(cfg.pairs), objective.bank, cfg, task, guided)
    asked = teacher.calls - asked
    like_cfg, like_task = setup.of_student(cfg, task)
    other = like_task is not task
    wanted = setup.wants_origin(task, objective, other)
    origin = setup.origin_of(cfg, task, teacher, out, device) if wanted else None
    start = setup.fitted(like_cfg, like_task, teacher, out, device, "fit_student") if other else origin
    student, recipe = setup.student_of(like_cfg, like_task, start, device)
    check_told(objective, recipe, student)
    ranks = here(cfg.strategy)
    torch.manual_seed(cfg.seed)  # initial weights of discriminator heads
    module = Distillation(
        cast(student, origin, objective, cfg.ema or 0.0, setup.adapter_of(cfg)),
        teacher,
        objective,
        setup.settings_of(cfg),
        task.like,
        student=setup.spec_of(cfg),
        null=task.null,
        bank=bank,
        ranks=ranks,
    ).to(device)
    average = apart(module, on_cpu=cfg.teacher_on_cpu, everywhere=everywhere)
    run(module, task, out, device=device, resume=cfg.resume, title=f"distilling by {cfg.recipe.name}")
    # What was asked before training began is counted apart: it does not grow with the number of updates.
    module.calls["teacher_bank"] = round(asked)
    fits = int(wanted and not isinstance(teacher, NetworkDenoiser | Routed)) + int(other)
    module.calls["teacher_fit"] = fits * cfg.fit.updates
    before = teacher.calls
    student = setup.finished(gathered(module, average).eval(), recipe, cfg, task, teacher, device)
    module.calls["teacher_settled"] = round(teacher.calls - before)
    return Distilled(student, recipe, module)


def keep_teacher(
    cfg: DictConfig, task: Task, teacher: Denoiser, student: Denoiser, out: FilePath, own: bool = False
) -> None:
    """Writes the teacher beside a student that asks it while it samples, unless the task has it anyway."""
    if not any("teacher" in walker.wants for walker in walkers(student)):
        return
    if isinstance(teacher, Routed):
        raise UserError("a student that asks its teacher while it samples has one; leave teachers out")
    if not (own or cfg.teacher):
        return
    assert isinstance(teacher, NetworkDenoiser)  # read from a folder, or the user's own
    described_task = None if own else described(setup.plain(cfg.task), task)
    save(teacher, Recipe(task=described_task, reading=teacher.reading()), out, "teacher")


def check_told(objective: Weighted, recipe: Recipe, student: Denoiser) -> None:
    """Refuses scales drawn for a student that is told none."""
    scales = objective.guidance_range
    told = recipe.guidance is not None or any(walker.told is not None for walker in walkers(student))
    if scales is not None and not told:
        raise UserError(
            f"student.guidance=null, but the objective draws guidance scales from {scales[0]:g} to {scales[1]:g} for "
            "it; set student.guidance to the scale it is to be told when sampled, or one scale in families.*.guidance"
        )


def training_record(module: Distillation) -> dict[str, Any]:
    """The `training` section of metrics.json."""
    seen = module.settings.batch * len(module.cast.turns) * module.update
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform != "darwin" else 1024**2
    )
    if module.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1024**2
    return {
        "student_updates": module.update,
        **({"warnings": list(module.warned)} if module.warned else {}),
        "seconds": round(module.seconds, 3),
        "samples_per_second": round(seen / max(module.seconds, 1e-9), 2),
        "peak_memory_mb": round(peak, 1),
        "calls": {name: count for name, count in module.calls.items() if count},
    }
