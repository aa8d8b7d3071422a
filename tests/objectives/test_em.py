"""EM Distillation on Gaussians: nothing at the optimum, Diff-Instruct with one step, forward KL with many."""

from dataclasses import dataclass

import pytest
import torch

from omnidistill import paths
from omnidistill.errors import UserError
from omnidistill.objectives.em import EM

M, V, MU, BIG = 0.7, 0.5, -0.4, 1.3
PATH = paths.rectified_flow()


@dataclass(frozen=True)
class At:
    t: float

    def __call__(self, count, path, g):
        return torch.full((count,), self.t, dtype=torch.float64)


def gradient(closed, objective, student=(M, V), count=50_000):
    models = {
        "teacher": closed.gaussian(MU, BIG, PATH),
        "student": closed.student(student[0], student[1] ** 0.5, PATH),
        "fake_score": closed.gaussian(*student, PATH),
    }
    batch, like = closed.free(count)
    losses = objective.losses("student", closed.step("student", models, batch, like))
    found = closed.gradient(losses, models["student"].network.shift, models["student"].network.scale)
    return found, {name: model.calls for name, model in models.items()}


def test_equal_laws_pull_nothing(closed):
    found, _ = gradient(closed, EM(steps=4), student=(MU, BIG), count=64)
    assert all(g == 0.0 for g in found)


def test_one_step_is_diff_instruct(closed):
    """rate times the reverse KL gradient, alpha^2 (m - mu) / V_p and alpha^2 sqrt(v) (1/V_p - 1/V_q)."""
    t, rate = 0.5, 0.1
    (shift, scale), _ = gradient(
        closed, EM(steps=1, rate=rate, latent_rate=0.0, times=At(t), weighting="snr"), count=200_000
    )
    a, _, s = PATH.coefficients(t)
    v_q, v_p = a**2 * V + s**2, a**2 * BIG + s**2
    torch.testing.assert_close(shift / rate, a**2 * (M - MU) / v_p, rtol=0.03, atol=5e-3)
    torch.testing.assert_close(scale / rate, a**2 * V**0.5 * (1 / v_p - 1 / v_q), rtol=0.03, atol=5e-3)


def test_many_steps_are_the_forward_divergence(closed):
    """alpha^2 (m - mu) / V_q: of KL(p || q) with respect to m, where q's own variance stands."""
    t = 0.5
    objective = EM(steps=60, rate=0.1, latent_rate=0.1, times=At(t), weighting="snr")
    (shift, _), calls = gradient(closed, objective, count=20_000)
    a, _, s = PATH.coefficients(t)
    forward, reverse = (float(a**2 * (M - MU) / (a**2 * v + s**2)) for v in (V, BIG))
    assert float(shift) == pytest.approx(forward, rel=0.06)
    assert abs(float(shift) - reverse) > 0.2 * forward
    assert calls == objective.cost("student")


@pytest.mark.parametrize("away", [0.4, -0.4])
def test_it_points_home(closed, away):
    for index in (0, 1):
        student = [MU, BIG**0.5]
        student[index] += away
        found, _ = gradient(closed, EM(steps=6), (student[0], student[1] ** 2), count=40_000)
        assert float(found[index]) * away > 0.0


def test_wrong_numbers_are_one_line():
    with pytest.raises(UserError, match="steps >= 1"):
        EM(steps=0)
