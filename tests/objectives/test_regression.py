"""Regression on teacher pairs: zero at the exact one-step map, on points and on ragged samples."""

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.objectives import Regression
from omnidistill.random import generator
from omnidistill.samplers import Heun

MEAN, SPREAD = 0.4, 0.6


def pairs(closed, path, count, steps):
    """Ends of the teacher's trajectories on Gaussian data, as the bank holds them."""
    teacher = closed.gaussian(MEAN, SPREAD**2, path)
    like = torch.empty(count, 1, dtype=torch.float64)
    made = Heun().sample(teacher, like, steps, g=generator("pairs"), keep=True)
    states = torch.stack((made.states[0], made.states[-1]), 1)
    return {"states": states, "times": torch.tensor([made.times[0], 0.0]), "context": Context()}


@pytest.mark.parametrize("name", ["rectified_flow", "trigflow", "edm"])
def test_zero_at_the_exact_map_and_pointing_home_from_beside(closed, name):
    """The flow's map from the prior is `m + c (x - alpha(1) m) / S(1)`: no loss, as the teacher's steps are refined;
    a student beside it is sent back."""
    path = getattr(paths, name)()
    alpha, _, sigma = path.coefficients(1.0)
    scale = SPREAD / float((alpha**2 * SPREAD**2 + sigma**2).sqrt())
    shift = MEAN * (1 - scale * float(alpha))
    batch, like = closed.free(512)
    losses = {}
    for steps in (16, 64):
        bank = pairs(closed, path, 512, steps)
        student = closed.student(shift, scale, path)
        step = closed.step("student", {"student": student}, batch, like, bank=bank)
        losses[steps] = float(Regression().losses("student", step).terms["regression"].detach())
    assert (
        losses[64] < 2e-5 and losses[64] < losses[16] / 16
    )  # a squared error of second order falls 256-fold
    for away in (0.2, -0.2):
        student = closed.student(shift + away, scale * (1 + away), path)
        step = closed.step("student", {"student": student}, batch, like, bank=bank)
        found = Regression().losses("student", step)
        assert float(found.terms["regression"].detach()) > 1e3 * losses[64]
        for gradient in closed.gradient(found, student.network.shift, student.network.scale):
            assert float(gradient) * away > 0


def test_the_value_is_half_the_mean_square(closed):
    path = paths.rectified_flow()
    states = torch.tensor([[[1.0, 2.0], [0.0, 4.0]], [[-1.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    bank = {"states": states, "times": torch.tensor([1.0, 0.0]), "context": Context()}
    batch, like = closed.free(2, 2)
    step = closed.step("student", {"student": closed.student(0.0, 1.0, path)}, batch, like, bank=bank)
    value = Regression().losses("student", step).terms["regression"]
    assert float(value.detach()) == pytest.approx(0.5 * (1 + 4 + 4 + 1) / 4)


def test_it_asks_the_student_under_the_pairs_own_conditions(closed):
    """The bank was made under its contexts; those of the batch belong to other samples."""
    path, seen = paths.rectified_flow(), []

    class Labelled(closed.Affine):
        def forward(self, x, t, condition=None, **keywords):
            seen.append(condition)
            return super().forward(x, t)

    from omnidistill.denoisers import NetworkDenoiser

    labels = torch.tensor([2, 0, 1])
    states = torch.zeros(3, 2, 1, dtype=torch.float64)
    bank = {"states": states, "times": torch.tensor([1.0, 0.0]), "context": Context(labels)}
    batch = Batch(None, Context(torch.tensor([9, 9, 9])), 3)
    student = NetworkDenoiser(Labelled(0.0, 1.0), path, "x0")
    like = torch.empty(3, 1, dtype=torch.float64)
    Regression().losses("student", closed.step("student", {"student": student}, batch, like, bank=bank))
    assert torch.equal(seen[0], labels)


@pytest.mark.parametrize("divergence", ["nll", "huber"])
def test_padding_changes_neither_loss_nor_gradient(closed, divergence):
    def bank(more):
        data, _ = closed.ragged("points", more, seed=5)
        noise, _ = closed.ragged("points", more, seed=6)
        return {
            "states": torch.stack((noise.x0, data.x0), 1),
            "times": torch.tensor([1.0, 0.0]),
            "context": data.context,
        }

    closed.check_padding(Regression(divergence=divergence), "points", bank=bank)


def test_calls_roles_and_mistakes(closed):
    objective, path = Regression(pairs=7, steps=3), paths.rectified_flow()
    assert (objective.bank.size, objective.bank.steps, objective.bank.states) == (7, 3, False)
    student = closed.student(0.0, 1.0, path)
    batch, like = closed.free(4)
    bank = pairs(closed, path, 4, 2)
    objective.losses("student", closed.step("student", {"student": student}, batch, like, bank=bank))
    assert {"student": student.calls} == objective.cost("student")
    assert objective.losses("fake_score", None) is None and objective.cost("fake_score") == {}
    assert objective.needs == {"deterministic"} and "deterministic" not in paths.MaskedPath(3).offers
    with pytest.raises(UserError, match=r"step\.bank"):
        objective.losses("student", closed.step("student", {"student": student}, batch, like))
    with pytest.raises(UserError, match="pairs >= 1"):
        Regression(pairs=0)
