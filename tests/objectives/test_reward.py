"""Rewards: the gradient is the reward's own, on noised data and on the shared rollout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.objectives import Reward, Weighted
from omnidistill.random import generator


def near(x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
    """`-(x - 3)^2`, highest at 3."""
    return -(x0_hat - 3.0).square().flatten(1).sum(1)


def faithful(x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
    assert x0 is not None
    return -(x0_hat - x0).square().flatten(1).sum(1)


def test_rollout_gradient_in_closed_form(closed) -> None:
    """The student answers `m + s eps` at t = 1; `E -(m + s eps - 3)^2` has gradients `2 (m - 3)` and `2 s`."""
    batch, like = closed.free(200_000)
    student = closed.student(1.0, 0.5, paths.rectified_flow())
    step = closed.step("student", {"student": student}, batch, like)
    shift, scale = closed.gradient(
        Reward({"near": near}, {"near": 0.25}).losses("student", step),
        student.network.shift,
        student.network.scale,
    )
    assert float(shift) == pytest.approx(0.25 * 2 * (1.0 - 3.0), abs=0.01)
    assert float(scale) == pytest.approx(0.25 * 2 * 0.5, abs=0.01)


def test_on_noised_data_the_best_belief_is_the_posterior_mean(closed) -> None:
    """Rewarding closeness to x0 at every time is denoising: at one fixed noise level the gradient vanishes at the
    least-squares line and points home beside it."""
    path, t = paths.rectified_flow(), 0.5

    def fixed(count, path, g):
        return torch.full((count,), t, dtype=torch.float64)

    x0 = 0.4 + 0.6 * torch.randn(400_000, 1, generator=generator("data"), dtype=torch.float64)
    gain = 0.5 * 0.36 / (0.25 * 0.36 + 0.25)  # cov(x0, x_t) / var(x_t)
    best = (0.4 - gain * 0.5 * 0.4, gain)
    objective = Reward({"faithful": faithful}, inputs="noised", times=fixed)
    for away in (0.0, 0.2, -0.2):
        student = closed.student(best[0] + away, best[1], path)
        step = closed.step("student", {"student": student}, Batch(x0))
        (shift,) = closed.gradient(objective.losses("student", step), student.network.shift)
        assert float(shift) == pytest.approx(2 * away, abs=0.01)


def test_noised_data_are_at_the_temperature_at_which_the_student_is_asked(closed) -> None:
    """At temperature 0 a student that answers with its input answers `alpha x0`; at 1 there is noise in it."""
    x0 = torch.randn(64, 1, generator=generator("clean"), dtype=torch.float64)

    def halfway(count, path, g):
        return torch.full((count,), 0.5, dtype=torch.float64)

    def noise(temperature: float) -> float:
        path = paths.rectified_flow(temperature=temperature)
        student = closed.student(0.0, 1.0, path)
        found = Reward(
            {"off": lambda hat, clean, _: (hat - 0.5 * clean).square().flatten(1).sum(1)},
            inputs="noised",
            times=halfway,
        )
        step = closed.step("student", {"student": student}, Batch(x0))
        return -float(found.losses("student", step).terms["reward/off"].detach())

    assert noise(0.0) < 1e-12 and noise(1.0) == pytest.approx(0.25, rel=0.5)


def test_shares_the_rollout_and_counts(closed) -> None:
    batch, like = closed.free(8)
    student = closed.student(1.0, 0.5, paths.rectified_flow())
    step = closed.step("student", {"student": student}, batch, like)
    both = Weighted({"a": Reward({"near": near}), "b": Reward({"near": near})}, {"a": 1.0, "b": 1.0})
    both.losses("student", step)
    assert student.calls == 1 == both.cost("student")["student"]


def test_the_reward_is_to_be_raised_for_the_student_alone(closed) -> None:
    batch, like = closed.free(8)
    student = closed.student(1.0, 0.5, paths.rectified_flow())
    found = Reward({"near": near}).losses(
        "student", closed.step("student", {"student": student}, batch, like)
    )
    assert float(found.terms["reward/near"].detach()) == pytest.approx(
        -float(found.diagnostics["reward/near/mean"])
    )
    assert Reward({"near": near}).losses("fake_score", None) is None


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "nothing to reward"),
        ({"rewards": {"near": near}, "weights": {"far": 1.0}}, "names far"),
        ({"rewards": {"near": near}, "inputs": "data"}, "unknown inputs"),
    ],
)
def test_bad_options_are_refused(options, line) -> None:
    with pytest.raises(UserError, match=line):
        Reward(**options)
