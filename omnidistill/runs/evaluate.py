"""Quality against steps of a run's teacher and student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

import torch
from omegaconf import DictConfig

from omnidistill.configuration.compose import build, load_config
from omnidistill.denoisers import Denoiser
from omnidistill.evaluation.curve import Point, floor, quality
from omnidistill.evaluation.environment import environment
from omnidistill.evaluation.metrics_file import metrics_document, read_metrics, write_metrics
from omnidistill.evaluation.report import write_report
from omnidistill.evaluation.table import print_table
from omnidistill.progress import track
from omnidistill.random import generator
from omnidistill.runs import setup
from omnidistill.student import read_denoiser
from omnidistill.tasks import Task


def judge(
    cfg: DictConfig, task: Task, teacher: Denoiser, student: Denoiser, training: dict[str, Any], out: FilePath
) -> dict[str, Any]:
    """Evaluates both at the run's step counts, the teacher at its full steps too, in the run's precision; writes
    metrics.json, samples and report.html and prints the table."""
    steps = sorted({int(s) for s in cfg.steps})
    options = {"samples": cfg.evaluation.samples, "seed": cfg.evaluation.seed, "batch": cfg.evaluation.batch}
    full = sorted({*steps, *cfg.evaluation.teacher_steps, task.teacher_steps})
    low = torch.autocast(setup.device_of(cfg), torch.bfloat16, enabled=cfg.precision == "bf16")
    with low, _bar(full, options, "sampling the teacher") as progress:
        teacher_points = quality(
            teacher, task.sampler(), task, full, progress=progress, name="teacher", **options
        )
    with low, _bar(steps, options, "sampling the student") as progress:
        sampler = setup.sampler_of(cfg)
        student_points = quality(student, sampler, task, steps, progress=progress, name="student", **options)
    document = metrics_document(
        task,
        cfg.recipe.name,
        cfg.seed,
        teacher=teacher_points,
        student=student_points,
        floor=floor(task, cfg.evaluation.samples, cfg.evaluation.seed),
        training=training,
        environment=environment(str(setup.device_of(cfg))),
    )
    write_metrics(document, out)
    _render(task, out / "samples", teacher_points, student_points, cfg.evaluation.seed)
    write_report(out)
    print_table(document)
    return document


def _render(
    task: Task,
    folder: FilePath,
    teacher: Sequence[Point],
    student: Sequence[Point],
    seed: int,
    count: int = 64,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("teacher_*"), *folder.glob("student_*")]:
        old.unlink()  # of an evaluation at other step counts; the page shows what lies here
    for name, points in (("teacher", teacher), ("student", student)):
        for point in points:
            task.render(point.x0, point.context, folder / f"{name}_{point.steps}")
    real = task.batch(count, generator(seed, "evaluation", "real"), "held_out")
    if real.x0 is not None:
        task.render(real.x0, real.context, folder / "real")


@contextmanager
def _bar(steps: Sequence[int], options: dict[str, Any], title: str) -> Any:
    batches = -(-options["samples"] // options["batch"])
    with track(sum(steps) * batches, title) as advance:
        seen = 0

        def progress(done: int, total: int) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done

        yield progress


def evaluate(
    folder: str | FilePath, changes: Callable[[DictConfig], DictConfig] | None = None
) -> dict[str, Any]:
    """Evaluates a finished run again, e.g. at other step counts; the training record stays as it was."""
    out = FilePath(folder)
    cfg = load_config(out)
    if changes:
        cfg = changes(cfg)
    device = setup.device_of(cfg)
    task: Task = build(cfg.task)
    student, _ = read_denoiser(out, "student", task, device)
    teacher = setup.guided(setup.teacher_of(cfg, task, device), task, cfg.guidance)
    return judge(cfg, task, teacher, student, read_metrics(out)["training"], out)
