"""The discriminator head: its optimum, the gradient that it sends to the student, its logits, shares and costs."""

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Adversarial, Matching, Weighted
from omnidistill.objectives.heads import Head
from omnidistill.random import generator

M, MU, VAR = 0.9, -0.3, 0.5  # student's and data's mean, and the variance of both


class Bare(nn.Module):
    """A network whose features are its input."""

    feature_module, feature_axis, feature_channels = "identity", 1, 1

    def __init__(self):
        super().__init__()
        self.identity, self.gain = nn.Identity(), nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, t, condition=None, **keywords):
        return self.gain * self.identity(x)


class Ratio(nn.Module):
    """The optimal discriminator at one time: the log-ratio of the noised laws, `log p_t - log q_t`, linear in x_t."""

    def __init__(self, alpha, sigma, slope=1.0):
        super().__init__()
        variance = alpha**2 * VAR + sigma**2
        self.slope = nn.Parameter(torch.as_tensor(slope * alpha * (MU - M) / variance, dtype=torch.float64))
        self.middle = float(alpha * 0.5 * (M + MU))

    def forward(self, features):
        return self.slope * (features[:, 0] - self.middle)


class At:
    def __init__(self, t):
        self.t = t

    def __call__(self, count, path, g):
        return torch.full((count,), self.t, dtype=torch.float64)


def step(closed, role, slope=1.0, t=0.4, count=50_000):
    path = paths.rectified_flow()
    alpha, _, sigma = path.coefficients(t)
    noise = torch.randn(count, 1, generator=generator("real"), dtype=torch.float64)
    models = {
        "student": closed.student(M, VAR**0.5, path),
        "fake_score": NetworkDenoiser(Bare(), path, "x0"),
        "discriminator": Ratio(alpha, sigma, slope),
    }
    return closed.step(role, models, Batch(MU + VAR**0.5 * noise))


def test_the_log_ratio_is_the_discriminators_optimum(closed):
    """L_D is stationary at `H = log p_t / q_t`, and from a flatter or steeper one its gradient leads there."""
    found = {}
    for slope in (1.0, 0.6, 1.6):
        workbench = step(closed, "fake_score", slope)
        losses = Adversarial(times=At(0.4), critic_weight=1.0).losses("fake_score", workbench)
        found[slope] = float(closed.gradient(losses, workbench["discriminator"].slope)[0])
    # The optimal slope is negative here: a gradient above zero makes a slope more negative, that is steeper.
    assert abs(found[1.0]) < 3e-3 < 0.02 < found[0.6] and found[1.6] < -0.02


def test_the_students_gradient_is_that_of_the_softplus_at_the_optimum(closed):
    """`d L_G / d m = -E[sigmoid(-H) H' alpha]`, in closed form by quadrature; it moves the student to the data."""
    t = 0.4
    workbench = step(closed, "student", t=t)
    losses = Adversarial(times=At(t)).losses("student", workbench)
    (gradient,) = closed.gradient(losses, workbench["student"].network.shift)
    alpha, _, sigma = workbench.path.coefficients(t)
    variance = alpha**2 * VAR + sigma**2
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64) * variance.sqrt() + alpha * M
    density = torch.exp(-0.5 * (x - alpha * M) ** 2 / variance)
    head = workbench["discriminator"]
    slope = head.slope.detach()
    logits = slope * (x - head.middle)
    expected = -(density * torch.sigmoid(-logits) * slope * alpha).sum() / density.sum()
    torch.testing.assert_close(gradient, expected, rtol=0.01, atol=0)
    assert float(gradient) * (M - MU) > 0
    # At the optimum of both players nothing is left to tell apart, and nothing moves.
    flat = step(closed, "student", slope=0.0)
    (still,) = closed.gradient(
        Adversarial(times=At(t)).losses("student", flat), flat["student"].network.shift
    )
    assert float(still) == 0.0


def test_losses_and_diagnostics_by_hand(closed):
    workbench = step(closed, "fake_score", count=64)
    objective = Adversarial(times=At(0.4), critic_weight=0.25)
    losses = objective.losses("fake_score", workbench)
    again = step(
        closed, "fake_score", count=64
    )  # same generator: rollout first, then fake's noise, then real's
    path, g = again.path, again.g
    x0, t = again.rollout.x0, torch.full((64,), 0.4, dtype=torch.float64)
    fake, real = (again["discriminator"](path.corrupt(x, t, g=g)) for x in (x0, again.x0))
    expected = 0.25 * (torch.log1p(fake.exp()) + torch.log1p((-real).exp())).mean()
    torch.testing.assert_close(losses.terms["discriminator"], expected)
    shown = losses.diagnostics
    accuracy = 0.5 * ((real > 0).double().mean() + (fake < 0).double().mean())
    torch.testing.assert_close(shown["adversarial/accuracy"].double(), accuracy)
    torch.testing.assert_close(shown["adversarial/margin"], (real - fake).mean().detach())
    assert not any(value.requires_grad for value in shown.values())


def test_gradients_reach_the_trained_role_alone(closed):
    for role in ("student", "fake_score"):
        workbench = step(closed, role, count=32)
        models = workbench.models
        losses = Adversarial().losses(role, workbench)
        torch.stack(list(losses.terms.values())).sum().backward()
        reached = {
            name for name, model in models.items() if any(p.grad is not None for p in model.parameters())
        }
        # The trunk here is the identity, so the critic itself has no parameter before its features.
        assert reached == ({"student"} if role == "student" else {"discriminator"})


def test_the_trunk_learns_with_the_head(closed):
    batch, path = closed.ragged("points")
    names = ("teacher", "student", "fake_score")
    models = {n: closed.ragged_denoiser("points", path, i) for i, n in enumerate(names)}
    models["discriminator"] = Head(8, 4).double()
    losses = Adversarial().losses("fake_score", closed.step("fake_score", models, batch))
    network = models["fake_score"].network
    before, after = closed.gradient(losses, network.inner.weight, network.last.weight)
    assert bool((before != 0).any())
    assert after is None  # behind the features


@pytest.mark.parametrize("role", ["student", "fake_score"])
def test_padding_changes_neither_loss_nor_gradient(closed, role):
    torch.manual_seed(0)
    head = Head(8, 4).double()
    closed.check_padding(Adversarial(), "points", role, discriminator=head)


@pytest.mark.parametrize("role", ["student", "fake_score"])
def test_calls_are_those_declared_alone_and_with_matching(closed, role):
    for objective in (Adversarial(), Weighted({"m": Matching(), "a": Adversarial()}, {"m": 1.0, "a": 0.01})):
        batch, path = closed.ragged("points")
        names = ("teacher", "student", "fake_score")
        models = {n: closed.ragged_denoiser("points", path, i) for i, n in enumerate(names)}
        everyone = {**models, "discriminator": Head(8, 4).double()}
        objective.losses(role, closed.step(role, everyone, batch))
        assert {n: m.calls for n, m in models.items() if m.calls} == objective.cost(role)


def test_a_network_without_features_is_told_what_to_declare(closed):
    critic = closed.student(0.0, 1.0, paths.rectified_flow())
    build = Adversarial().roles["fake_score"].modules["discriminator"]
    with pytest.raises(UserError, match="feature_channels"):
        build(critic)
    batch = Batch(torch.zeros(2, 1, dtype=torch.float64), Context())
    models = {"student": critic, "fake_score": critic, "discriminator": Head(1)}
    with pytest.raises(UserError, match="feature_module"):
        Adversarial().losses("student", closed.step("student", models, batch))


def test_a_closed_form_has_no_features_to_read() -> None:
    teacher = GaussianMixtureTask().exact_teacher()
    with pytest.raises(UserError, match="no inner features"):
        Adversarial().roles["fake_score"].modules["discriminator"](teacher)
    with pytest.raises(UserError, match="no inner features"):
        teacher.features(torch.zeros(2, 2), 0.5)
