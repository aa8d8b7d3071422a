"""The network that training starts from, where the teacher has none: fitted to its beliefs, with labels and without."""

from __future__ import annotations

from pathlib import Path

import torch

from omnidistill.configuration.compose import build, compose
from omnidistill.context import Context
from omnidistill.random import generator
from omnidistill.runs import setup


def test_a_fitted_network_also_knows_what_no_label_means(tmp_path: Path) -> None:
    """Its belief without a label is nearer to the teacher's than to any with one: guidance is their difference."""
    words = ("task.means=[[2,0],[-2,0]]", "task.std=0.5", "task.conditional=true", "seed=0", "threads=1")
    fit = ("task.network={width: 32, depth: 1}", "fit.updates=300", "fit.lr=5e-3", "batch=128")
    more = ["recipe=diff-instruct", f"out={tmp_path}", "ema=0.9"]
    cfg = compose("config", ["task=exact/gaussian_mixture", *words, *fit, *more])
    task = build(cfg.task)
    teacher = setup.teacher_of(cfg, task, "cpu")
    network = setup.origin_of(cfg, task, teacher, tmp_path, "cpu")

    g = generator(0, "here")
    x0, context = task.batch(512, g).x0, task.batch(512, g).context
    t = torch.full((512,), 0.8, dtype=torch.float64)
    x_t = task.path.renoise(x0, t, context, g=g)
    nothing = Context(condition=torch.full((512,), task.null))
    with torch.no_grad():
        for asked in (context, nothing):
            found, truth = (model(x_t, t, asked).parameters for model in (network, teacher))
            assert (found - truth).square().mean().sqrt() < 0.3
        apart = teacher(x_t, t, context).parameters - teacher(x_t, t, nothing).parameters
    assert apart.square().mean().sqrt() > 1.0
