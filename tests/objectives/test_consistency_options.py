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


def test_noisy_steps_of_the_teacher_become_the_reverse_equation(closed) -> None:
    """With churn 1 the mean and the deviation of x_r given x_t are those of the process itself, as the steps get small;
    without, x_r is a function of x_t."""
    from omnidistill.objectives.following import follow

    path = paths.rectified_flow()
    teacher = closed.gaussian(MEAN, SPREAD**2, path)
    x_t = torch.full((40_000, 1), 0.9, dtype=torch.float64)
    t, r = (torch.full((len(x_t),), u, dtype=torch.float64) for u in (T, R))
    # Cov(x_t, x_r) of the process, which goes from x_r to x_t by a gain of alpha_t / alpha_r.
    (at, vt), (ar, vr) = ((1 - u, ((1 - u) * SPREAD) ** 2 + u**2) for u in (T, R))
    covariance = at / ar * vr
    mean = ar * MEAN + covariance / vt * (0.9 - at * MEAN)
    deviation = (vr - covariance**2 / vt) ** 0.5
    errors = []
    for steps in (2, 8, 32):
        x_r, _ = follow(path, teacher, x_t, t, r, Context(), generator("sde"), steps, churn=1.0)
        errors.append(abs(float(x_r.mean()) - mean) + abs(float(x_r.std()) - deviation))
    assert errors[2] < 0.02 and errors[0] > 3 * errors[2]
    half, _ = follow(path, teacher, x_t, t, r, Context(), generator("sde"), 32, churn=0.5)
    none, _ = follow(path, teacher, x_t, t, r, Context(), generator("sde"), 32, churn=0.0)
    assert 0 < float(half.std()) < deviation and float(none.std()) < 1e-12


def test_with_noise_the_best_answer_is_the_mean_over_what_may_follow(closed) -> None:
    """SCott's fixed point: the gradient at `f(x_t) = E f(x_r)` is zero, with f(x_r) the flow's own map."""
    path, count = paths.rectified_flow(), 60_000
    x0 = MEAN + SPREAD * torch.randn(count, 1, generator=generator("data"), dtype=torch.float64)
    (at, vt), (ar, vr) = ((1 - u, ((1 - u) * SPREAD) ** 2 + u**2) for u in (T, R))
    down = SPREAD / vr**0.5  # the flow's map from r to the data: MEAN + down (x_r - ar MEAN)
    gain = down * (at / ar * vr) / vt  # its mean given x_t, of the reverse equation

    class Average(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return MEAN + down * (x - ar * MEAN)

    from omnidistill.denoisers import NetworkDenoiser

    slopes = []
    for k in (gain, SPREAD / vt**0.5):  # and the map of the flow from t, where there is no noise
        student = closed.student(MEAN - k * at * MEAN, k, path)
        models = {
            "student": student,
            "target": NetworkDenoiser(Average(), path, "x0"),
            "teacher": closed.gaussian(MEAN, SPREAD**2, path),
        }
        objective = Consistency(jumps=fixed, divergence="l2", teacher_steps=16, churn=1.0)
        losses = objective.losses("student", closed.step("student", models, Batch(x0)))
        slopes.append(float(closed.gradient(losses, student.network.scale)[0]))
    assert abs(slopes[0]) < 0.15 * slopes[1]


def test_pairs_of_ones_own_ask_no_teacher(closed) -> None:
    """The exact denoiser as its own teacher gives the pairs that the teacher gives."""
    path = paths.rectified_flow()
    x0 = MEAN + SPREAD * torch.randn(64, 1, generator=generator("data"), dtype=torch.float64)
    found = []
    for pairs in ("teacher", "own"):
        models = {
            "student": closed.student(0.1, 0.2, path),
            "target": closed.gaussian(MEAN, SPREAD**2, path),
            "teacher": closed.gaussian(MEAN, SPREAD**2, path),
        }
        objective = Consistency(pairs=pairs, jumps=fixed, divergence="l2", teacher_steps=2)
        step = closed.step("student", models, Batch(x0))
        found.append(float(objective.losses("student", step).terms["consistency"].detach()))
        calls = {name: model.calls for name, model in models.items() if model.calls}
        assert calls == objective.cost("student")
        assert ("teacher" in calls) == (pairs == "teacher")
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    student = Consistency(pairs="own", target="self", jumps=fixed)
    step = closed.step("student", models, Batch(x0))
    before = models["student"].calls
    student.losses("student", step)
    assert models["student"].calls - before == student.cost("student")["student"] == 3


def test_the_distance_to_the_data_is_of_the_same_answer(closed) -> None:
    """Its gradient alone is that of denoising: zero at the posterior mean, and no further call is made for it."""
    path, count = paths.rectified_flow(), 400_000
    x0 = MEAN + SPREAD * torch.randn(count, 1, generator=generator("data"), dtype=torch.float64)
    offset, gain, _ = line(T)
    student = closed.student(offset, gain, path)
    models = {"student": student, "target": closed.gaussian(MEAN, SPREAD**2, path)}
    objective = Consistency(pairs="own", jumps=fixed, divergence="l2", clean=2.0)
    losses = objective.losses("student", closed.step("student", models, Batch(x0)))
    slope, *_ = torch.autograd.grad(losses.terms["clean"], (student.network.scale,))
    assert abs(float(slope)) < 5e-3 and student.calls == 1
    error = float((student(path.corrupt(x0, T, g=generator("again")), T).mean - x0).square().mean().detach())
    assert float(losses.terms["clean"].detach()) == pytest.approx(2.0 * 0.5 * error, rel=0.02)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"churn": 0.5, "second_order": True}, "single-belief steps"),
        ({"churn": 0.5, "pairs": "bridge"}, "single-belief steps"),
        ({"churn": 1.5}, "share from 0 to 1"),
        ({"clean": 1.0, "pairs": "stored"}, "distance to the data"),
        ({"clean": -1.0}, "distance to the data"),
    ],
)
def test_options_that_do_not_go_together(options, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Consistency(**options)
