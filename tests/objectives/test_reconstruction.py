"""The teacher's reconstruction of the student's own samples, against the known trajectories of a Gaussian."""

import math

import pytest
import torch

from omnidistill import paths
from omnidistill.errors import UserError
from omnidistill.objectives import Reconstruction, StudentSpec
from omnidistill.samplers import FewStep

MEAN, STD = 0.7, 0.4


def step_of(closed, student, path, count=256, steps=1, **options):
    batch, like = closed.free(count)
    spec = StudentSpec(steps, FewStep("ode"))
    models = {"teacher": closed.gaussian(MEAN, STD**2, path), "student": student}
    return closed.step("student", models, batch, like, student=spec, **options)


@pytest.mark.parametrize("order, least", [(False, 3.0), (True, 7.0)])
def test_at_depth_one_the_exact_map_is_left_with_the_solvers_error(closed, order: bool, least: float) -> None:
    """Of first order in the step for Euler's rule, of second for Heun's; squared in the loss."""
    path = paths.rectified_flow()
    student = closed.student(MEAN, STD, path)  # x0 = m + c x_1 at t = 1
    losses = []
    for steps in (8, 16):
        objective = Reconstruction(teacher_steps=steps, second_order=order)
        found = objective.losses("student", step_of(closed, student, path))
        losses.append(float(found.terms["reconstruction"].detach()))
    assert losses[1] < 1e-3 and losses[0] / losses[1] > least


@pytest.mark.parametrize("depth", [0.5, 0.9])
def test_below_it_rests_where_the_straight_way_says(closed, depth: float) -> None:
    path = paths.rectified_flow()
    wide = math.sqrt((1 - depth) ** 2 * STD**2 + depth**2)
    rest = STD * depth / (wide - STD * (1 - depth))
    objective = Reconstruction(depth, teacher_steps=96, second_order=True)
    slopes = []
    for gain in (rest, STD, 1.2 * rest):
        student = closed.student(MEAN, gain, path)
        found = objective.losses("student", step_of(closed, student, path, count=1024))
        slopes.append(float(closed.gradient(found, student.network.scale)[0]))
    assert rest > STD and abs(slopes[0]) < 0.1 * min(abs(s) for s in slopes[1:])
    assert slopes[1] < -1e-3 and slopes[2] > 1e-3  # towards it from both sides


def test_fresh_noise_shrinks_what_it_judges(closed) -> None:
    path, depth = paths.rectified_flow(), 0.6
    kept = (1 - depth) * STD / math.sqrt((1 - depth) ** 2 * STD**2 + depth**2)
    student = closed.student(MEAN, STD, path)
    objective = Reconstruction(depth, "fresh", teacher_steps=32, second_order=True)
    step = step_of(closed, student, path, count=50_000)
    with torch.no_grad():
        own = step.rollout
        target = objective._target(step, own.x_t, own.x0, own.t).mean
    x = own.x0 - MEAN
    assert float((x * (target - MEAN)).mean() / x.square().mean()) == pytest.approx(kept, abs=1e-2)
    assert float(target.std()) == pytest.approx(STD, rel=0.01)  # of the right law all the same
    found = objective.losses("student", step_of(closed, student, path, count=1024))
    assert float(closed.gradient(found, student.network.scale)[0]) > 0.05  # a smaller spread would cost less


def test_states_are_the_students_own_and_targets_have_no_graph(closed) -> None:
    path = paths.rectified_flow()
    seen = set()
    for seed in range(12):
        student = closed.student(MEAN, STD, path)
        step = step_of(closed, student, path, steps=3, seed=seed)
        found = Reconstruction(0.9).losses("student", step)
        seen.add(round(float(step.rollout.t[0]), 3))
        assert not step.rollout.x_t.requires_grad and found.terms["reconstruction"].requires_grad
    assert seen == {1.0, 0.667, 0.333}


@pytest.mark.parametrize(
    "options", [{}, {"teacher_steps": 3, "second_order": True}, {"noise": "fresh"}], ids=str
)
def test_calls_are_those_that_are_declared(closed, options) -> None:
    path = paths.rectified_flow()
    objective = Reconstruction(**options)
    step = step_of(closed, closed.student(MEAN, STD, path), path)
    objective.losses("student", step)
    assert {name: model.calls for name, model in step.models.items()} == objective.cost("student")


def test_padding_changes_nothing(closed) -> None:
    closed.check_padding(Reconstruction(0.9, teacher_steps=2), "points")


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Reconstruction(noise="none"), "noise of a reconstruction 'none'"),
        (lambda: Reconstruction(0.0), "0 < depth <= 1"),
        (lambda: Reconstruction(teacher_steps=0), "teacher_steps >= 1"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(make, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make()
