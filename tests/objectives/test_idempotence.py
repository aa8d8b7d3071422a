"""Idempotence of an affine map f(x) = b + a x, whose losses and gradients are moments."""

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Batch
from omnidistill.errors import UserError
from omnidistill.objectives.base import StudentSpec
from omnidistill.objectives.idempotence import Idempotence
from omnidistill.random import generator

PATH = paths.rectified_flow()


def losses(closed, shift, scale, data, **options):
    models = {"student": closed.student(shift, scale, PATH), "teacher": closed.gaussian(0.0, 1.0, PATH)}
    step = closed.step("student", models, Batch(data), seed=1)
    objective = Idempotence(**options)
    found = objective.losses("student", step)
    assert models["student"].calls == objective.cost("student")["student"]
    return found, step, models["student"].network


def test_what_keeps_everything_has_no_loss(closed):
    data = torch.randn(64, 2, generator=generator(0), dtype=torch.float64)
    found, _, network = losses(closed, 0.0, 1.0, data)
    assert found.terms["idempotence"] == 0.0 and found.terms["reconstruction"] == 0.0
    assert all(g == 0.0 for g in closed.gradient(found, network.shift, network.scale))


@pytest.mark.parametrize("shift, scale", [(0.3, 0.6), (-0.2, 1.4)])
def test_losses_and_gradients_are_those_of_an_affine_map(closed, shift, scale):
    """f(f(z)) - f(z) = b + (a - 1) f(z), and the outer b and a are held."""
    data = torch.randn(64, 2, generator=generator(0), dtype=torch.float64)
    found, step, network = losses(closed, shift, scale, data, reconstruction=0.5)
    made = step.rollout.x0.detach()
    off, error = shift + (scale - 1) * made, shift + (scale - 1) * data
    torch.testing.assert_close(found.terms["idempotence"].detach(), 0.5 * off.square().mean())
    torch.testing.assert_close(found.terms["reconstruction"].detach(), 0.25 * error.square().mean())
    (inner,) = torch.autograd.grad(found.terms["idempotence"], network.shift, retain_graph=True)
    torch.testing.assert_close(inner, ((scale - 1) * off).mean())
    (own,) = torch.autograd.grad(found.terms["reconstruction"], network.shift)
    torch.testing.assert_close(own, 0.5 * error.mean())


def test_it_is_of_one_step(closed):
    models = {"student": closed.student(0.0, 1.0, PATH)}
    batch, like = closed.free(4)
    step = closed.step("student", models, batch, like, student=StudentSpec(4))
    with pytest.raises(UserError, match="one step"):
        Idempotence(reconstruction=0.0).losses("student", step)


def test_padding_changes_nothing(closed):
    closed.check_padding(Idempotence(), "points")
