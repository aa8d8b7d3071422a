"""Four steps by distribution matching: with a critic that is told which of them a sample is of they are no worse than
one, with one that is not told they fall onto a part of the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnidistill.configuration.compose import build, compose
from omnidistill.evaluation.curve import quality
from omnidistill.runs import setup
from omnidistill.runs.distil import train_student

SMALL = [
    *("task=exact/gaussian_mixture", "task.means=[[1.5,0],[-1,1],[-0.5,-1.2]]", "task.weights=[0.5,0.3,0.2]"),
    *("task.network={width: 64, depth: 2}", "batch=192", "fit.updates=250", "fit.lr=2e-3", "optim.lr=1e-3"),
    *("ema=0.97", "updates=250", "seed=1", "threads=1", "recipe=diff-instruct", "student.steps=4"),
    "families.matching.critic_updates=3",
]


def figures(overrides: list[str], out: Path) -> tuple[dict[int, float], dict[int, float], dict[int, float]]:
    """Energy distances of the trained student and of its start by number of steps, and modes recalled."""
    cfg = compose("config", [*SMALL, *overrides, f"out={out}"])
    task, device = build(cfg.task), setup.device_of(cfg)
    teacher = setup.teacher_of(cfg, task, device)
    trained, description, _ = train_student(cfg, task, teacher, out, device)
    start, _ = setup.student_of(cfg, task, setup.origin_of(cfg, task, teacher, out / "start", device), device)
    found = [
        {p.steps: p.metrics for p in quality(model, description.sampler(), task, (1, 4), 2048, 0, 512)}
        for model in (trained, start)
    ]
    energies = [{k: m["energy"] for k, m in points.items()} for points in found]
    return *energies, {k: m["heavy_modes_recalled"] for k, m in found[0].items()}


@pytest.mark.slow
def test_a_critic_that_is_told_keeps_every_step(tmp_path: Path) -> None:
    told, start, recalled = figures(["families.matching.step_aware=true"], tmp_path / "told")
    print(told, start, recalled)
    assert recalled[1] == recalled[4] == 1.0
    assert told[4] < told[1] + 0.05 and told[4] < 0.6 * start[4]
    mixed, _, _ = figures([], tmp_path / "mixed")
    print(mixed)
    assert mixed[1] > 2.0 * told[1]
