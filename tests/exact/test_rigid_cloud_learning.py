"""Rigid clouds are learned: the posterior in seconds, and by two families a student of few steps."""

from pathlib import Path

import pytest
import torch

from omnidistill.configuration.compose import build, compose
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.evaluation.gap import gap_closed
from omnidistill.evaluation.metrics_file import read_metrics
from omnidistill.exact.rigid_cloud import RigidCloudTask
from omnidistill.random import generator
from omnidistill.runs.distil import distill
from omnidistill.runs.setup import sampler_of
from omnidistill.times import Uniform


def test_the_tasks_network_learns_the_posterior():
    """To a twentieth of what the posterior mean moves at a level where shape and pose are to be found in the noise."""
    task = RigidCloudTask(points=6, shapes=2, seed=0, network={"clouds": 6, "width": 32, "depth": 1})
    torch.manual_seed(0)
    student, teacher = NetworkDenoiser(task.network(), task.path, **task.reading()), task.exact_teacher()
    t = torch.full((256,), float(task.path.time_from_noise_level(0.3)), dtype=torch.float64)
    x_t = task.path.corrupt(task.batch(256, generator("seen")).x0, t, g=generator("noise"))
    mean = teacher(x_t, t).mean

    def error():
        with torch.no_grad():
            return float((student(x_t, t).mean - mean).square().mean().sqrt())

    before = error()
    optimiser = torch.optim.AdamW(student.parameters(), 4e-3)
    g, times = generator(0), Uniform(*(float(task.path.time_from_noise_level(s)) for s in (0.1, 2.0)))
    for _ in range(200):
        drawn = times(64, task.path, g)
        noisy = task.path.corrupt(task.batch(64, g).x0, drawn, g=g)
        apart = student(noisy, drawn).divergence(teacher(noisy, drawn))
        loss = (student.output_weight(drawn)[:, None, None] * apart).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(before, error())
    assert error() < 0.03 < 0.2 < before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "updates", "least"), [("consistency-models", 300, 85.0), ("dmd2", 200, 70.0)]
)
def test_two_steps_close_the_gap(recipe: str, updates: int, least: float, tmp_path: Path):
    out = tmp_path / "student"
    given = ["task=exact/rigid_cloud", "task.points=8", "task.shapes=2", "task.seed=7", f"recipe={recipe}"]
    given += [f"updates={updates}", "fit.updates=300", "steps=1,2,4", "evaluation.samples=1000", f"out={out}"]
    cfg = compose("config", given)
    distill(cfg)
    found = read_metrics(out)
    closed = {steps: found["gap_closed"][steps] for steps in ("1", "2")}
    print(closed)
    at = {point["steps"]: point["metrics"] for point in found["teacher"]}
    for point in found["student"]:
        assert point["metrics"]["mirror"] < 0.01
        assert point["metrics"]["shape_recall"] == 1.0
    assert closed["2"] > least
    # A student that learned nothing does not.
    task = build(cfg.task)
    student = NetworkDenoiser(task.network(), task.path, **task.reading())
    with torch.no_grad():
        x0 = sampler_of(cfg).sample(student, task.like(500), 2, g=generator(0)).x0
    energy = task.measure(x0, Context(), generator(0))["energy"]
    untrained = gap_closed("lower", at[2]["energy"], energy, at[64]["energy"])
    assert untrained is not None and untrained < 20.0
