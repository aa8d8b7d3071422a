"""A student learns to take samples of each label to the other one, without pairs: the discriminator takes them there,
and the way back keeps what they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from omnidistill.configuration.compose import build, compose
from omnidistill.denoisers import Denoiser
from omnidistill.evaluation.curve import quality
from omnidistill.runs import setup
from omnidistill.runs.distil import train_student
from omnidistill.samplers import FewStep
from omnidistill.tasks import Task

APART = 3.0
SMALL = [
    *(
        "task=exact/gaussian_mixture",
        "task.means=[[-1.5,0],[1.5,0]]",
        "task.std=0.4",
        "task.conditional=true",
    ),
    *("recipe=img2img-turbo", "student.inputs=translated", "student.adapter=null"),
    *("objective.translation=1", "objective.l2=0", "objective.features=0"),
    *("families.translation.cycle_features=0", "families.translation.identity_features=0"),
    # It does not know the labels when it begins, so that it is not the start that goes to the right one.
    *("student.new_condition=true", "task.network={width: 48, depth: 2}", "fit.updates=100", "fit.lr=3e-3"),
    *("batch=96", "updates=200", "optim.lr=2e-3", "ema=0.95", "seed=0", "threads=1", "log.lag=0"),
]


def figures(model: Denoiser, task: Task) -> tuple[Tensor, float, float]:
    """How far the translations' means are from those of their labels, their least deviation as a share of the data's,
    and how much is lost there and back."""
    (point,) = quality(model, FewStep(), task, (1,), 1024, 0, 1024, keep=1024, translates=True)
    labels, x0 = point.context.condition, point.x0.double()
    sets = [x0[labels == k] for k in (0, 1)]
    off = max(float((x.mean(0) - mean).norm()) for x, mean in zip(sets, task.mixture.means, strict=True))
    return off, min(float(x.std(0).min()) for x in sets) / 0.4, point.metrics["cycle"]


def trained(overrides: list[str], out: Path) -> tuple[Denoiser, Denoiser, Task]:
    """The student of these overrides and its start."""
    cfg = compose("config", [*SMALL, *overrides, f"out={out}"])
    task, device = build(cfg.task), setup.device_of(cfg)
    teacher = setup.teacher_of(cfg, task, device)
    student, _, _ = train_student(cfg, task, teacher, out, device)
    start, _ = setup.student_of(cfg, task, setup.origin_of(cfg, task, teacher, out / "start", device), device)
    return student, start, task


@pytest.mark.slow
def test_samples_reach_the_other_label_and_can_be_found_again(tmp_path: Path) -> None:
    student, start, task = trained([], tmp_path / "both")
    off, wide, lost = figures(student, task)
    print(off, wide, lost)
    assert off < 0.1 * APART and wide > 0.5 and lost < 0.3
    off, wide, lost = figures(start, task)
    print(off, wide, lost)
    assert off > 0.4 * APART  # between the two
    alone, _, _ = trained(["objective.adversarial=0"], tmp_path / "alone")
    off, _, lost = figures(alone, task)
    assert off > 0.9 * APART and lost < 0.3  # nothing need be done for the cycle
