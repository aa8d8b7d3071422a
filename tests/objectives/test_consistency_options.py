"""Consistency between two noises of one sample, and under a view of the samples: gradients in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.objectives import Consistency
from omnidistill.random import generator

MEAN, SPREAD, T, R = 0.4, 0.6, 0.7, 0.3


def fixed(count, path, g, progress=0.0, round_=0):
    return torch.full((count,), T, dtype=torch.float64), torch.full((count,), R, dtype=torch.float64)


fixed.nodes = 1  # type: ignore[attr-defined]


def line(t: float) -> tuple[float, float, float]:
    """Offset and gain of the exact denoiser at t on a rectified flow, and alpha."""
    alpha = 1.0 - t
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + t**2)
    return MEAN - gain * alpha * MEAN, gain, alpha


@pytest.mark.parametrize(("pairs", "shared"), [("independent", 0.0), ("bridge", 1.0)])
def test_the_two_noises_are_shared_or_not(closed, pairs: str, shared: float) -> None:
    """With exact beliefs `D = a + k x` the gradient on the student's gain is
    `E (D_t - D_r) x_t = alpha_t c^2 (1 - k_r alpha_r) - shared k_r sigma_r sigma_t`."""
    path = paths.rectified_flow()
    x0 = MEAN + SPREAD * torch.randn(400_000, 1, generator=generator("data"), dtype=torch.float64)
    offset, gain, alpha = line(T)
    _, gain_r, alpha_r = line(R)
    models = {
        "student": closed.student(offset, gain, path),
        "teacher": closed.gaussian(MEAN, SPREAD**2, path),
    }
    objective = Consistency(pairs=pairs, target="teacher", jumps=fixed, divergence="l2")
    losses = objective.losses("student", closed.step("student", models, Batch(x0)))
    shift, scale = closed.gradient(losses, models["student"].network.shift, models["student"].network.scale)
    expected = alpha * SPREAD**2 * (1 - gain_r * alpha_r) - shared * gain_r * R * T
    assert float(shift) == pytest.approx(0.0, abs=4e-3)
    # The mean of x_t adds the (vanishing) gradient on the shift.
    assert float(scale) == pytest.approx(expected, abs=4e-3)


def differences(x: Tensor) -> Tensor:
    return x.diff(dim=-1)


def test_a_view_hides_what_it_does_not_show(closed) -> None:
    """Under differences a student whose samples are all too high is as good as the exact one, and one whose gain is
    off is not."""
    path = paths.rectified_flow()
    x0 = MEAN + SPREAD * torch.randn(2000, 8, generator=generator("data"), dtype=torch.float64)
    offset, gain, _ = line(T)
    found = {}
    for name, view in (("all", None), ("differences", differences)):
        for away in (0.0, 0.5):
            models = {
                "student": closed.student(offset + away, gain, path),
                "teacher": closed.gaussian(MEAN, SPREAD**2, path, 8),
            }
            objective = Consistency(pairs="bridge", target="teacher", jumps=fixed, divergence="l2", view=view)
            step = closed.step("student", models, Batch(x0), seed=3)
            losses = objective.losses("student", step)
            student = models["student"].network
            found[name, away] = closed.gradient(losses, student.shift, student.scale)
    assert abs(float(found["all", 0.5][0])) > 0.4
    for away in (0.0, 0.5):
        assert float(found["differences", away][0]) == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(found["differences", 0.5][1], found["differences", 0.0][1])
    assert abs(float(found["differences", 0.0][1])) > 1e-2


def test_views_are_of_points_without_padding(closed) -> None:
    batch, path = closed.ragged("points")
    models = {
        name: closed.ragged_denoiser("points", path, i) for i, name in enumerate(("student", "teacher"))
    }
    objective = Consistency(pairs="bridge", target="teacher", jumps=fixed, view=differences)
    with pytest.raises(UserError, match="without padding"):
        objective.losses("student", closed.step("student", models, batch))
    whole = Batch(batch.x0, Context())
    assert objective.losses("student", closed.step("student", models, whole)) is not None
