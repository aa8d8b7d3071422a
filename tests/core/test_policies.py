"""Policies: closed forms of the walk, what a widened network answers at the start, calls of many small steps."""

import itertools

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser, PolicyDenoiser
from omnidistill.denoisers.policies import checked as policy
from omnidistill.denoisers.policies import onto, walked, widened
from omnidistill.errors import UserError
from omnidistill.exact.mixture import Mixture
from omnidistill.networks.mlp import MLP
from omnidistill.networks.unet import UNet
from omnidistill.posteriors import ArcPosterior, GridPosterior, MixturePosterior, detach
from omnidistill.random import generator
from omnidistill.samplers import Euler, FewStep, Heun
from omnidistill.testing import check_denoiser

F64 = torch.float64
NAMES = ["rectified_flow", "trigflow", "vp_linear", "edm"]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator("policies", seed), dtype=F64)


def gaussian(path, x, t, mean, spread):
    """The exact posterior of N(m, c^2 I) at x_t, as a mixture of one."""
    alpha, _, sigma = path.coefficients(t)
    total = (alpha * spread) ** 2 + sigma**2
    gain = alpha * spread**2 / total
    means = mean + gain * (x - alpha * mean)
    log_std = 0.5 * (spread**2 * sigma**2 / total).log().expand(len(x), 1)
    return MixturePosterior.of(means.unsqueeze(1), torch.zeros(len(x), 1, dtype=F64), log_std, x, t)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.9, 0.3), (0.4, 0.0)])
def test_one_gaussian_is_walked_exactly_in_one_step(name, ends):
    """`x_s = alpha_s m + S_s / S_t (x_t - alpha_t m)` with `S^2 = alpha^2 c^2 + sigma^2`, at any length of the step."""
    path, mean, spread = getattr(paths, name)(), 0.4, 0.6
    t, s = (torch.tensor(min(u, path.span[1]), dtype=F64) for u in ends)
    (a_t, _, n_t), (a_s, _, n_s) = path.coefficients(t), path.coefficients(s)
    x = a_t * mean + ((a_t * spread) ** 2 + n_t**2).sqrt() * normal(5, 3)
    exact = a_s * mean + (((a_s * spread) ** 2 + n_s**2) / ((a_t * spread) ** 2 + n_t**2)).sqrt() * (
        x - a_t * mean
    )
    belief = gaussian(path, x, t, mean, spread)
    assert belief.exact
    torch.testing.assert_close(belief.onwards(x, t, s, path), exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(walked(belief, x, t, s, path, 5), exact, rtol=1e-9, atol=1e-9)
    middle = 0.5 * (t + s)
    there = belief.onwards(belief.onwards(x, t, middle, path), middle, s, path)
    torch.testing.assert_close(there, exact, rtol=1e-7, atol=1e-7)
    point = onto(belief, x, t, s, path, 1).mean
    torch.testing.assert_close(path.bridge(x, point, t, s), exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_a_belief_without_spread_jumps_as_ddim_does(name):
    path = getattr(paths, name)()
    t, s = torch.tensor(0.8, dtype=F64), torch.tensor(0.2, dtype=F64)
    x, means = normal(4, 3), normal(4, 1, 3, seed=1)
    belief = MixturePosterior.of(
        means, torch.zeros(4, 1, dtype=F64), torch.full((4, 1), -20.0, dtype=F64), x, t
    )
    torch.testing.assert_close(
        belief.onwards(x, t, s, path), path.bridge(x, means[:, 0], t, s), rtol=1e-6, atol=1e-6
    )


def test_the_exact_belief_of_a_mixture_is_walked_to_where_the_teacher_comes():
    """Asked once at t; many small steps end where the exact denoiser's own do, and halving them shrinks the error."""
    from omnidistill.exact.gaussian_mixture import MixtureDenoiser

    path = paths.rectified_flow()
    centres = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [-0.5, -1.2]], dtype=F64)
    weights, std = torch.tensor([0.5, 0.3, 0.2], dtype=F64), 0.3
    teacher = MixtureDenoiser(path, Mixture(centres, std, weights))
    x, t = normal(64, 2), torch.tensor(1.0, dtype=F64)
    fine = Heun().sample(teacher, x, 512, x_1=x).x0
    # At t = 1 nothing is known: the posterior is the data themselves.
    belief = MixturePosterior.of(
        centres.expand(64, 3, 2),
        weights.log().expand(64, 3),
        torch.tensor(std, dtype=F64).log().expand(64, 3),
        x,
        t,
    )
    errors = [
        float((walked(belief, x, t, torch.tensor(0.0, dtype=F64), path, n) - fine).norm(dim=1).mean())
        for n in (8, 16, 32, 64)
    ]
    assert errors[3] < 0.03 and all(b < 0.75 * a for a, b in itertools.pairwise(errors))


def test_a_grid_of_straight_lines_is_walked_exactly_on_a_rectified_flow():
    """x0 linear in time, `D = p + q t`: `x_s = (s/t) x + s (rho_s - rho_t) p + s q log(t / s)`, no node between."""
    path, b = paths.rectified_flow(), 4
    t, s = torch.full((b,), 0.9, dtype=F64), torch.full((b,), 0.25, dtype=F64)
    x, first, last = normal(b, 3), normal(b, 3, seed=1), normal(b, 3, seed=2)
    belief = GridPosterior(torch.cat((first, last), 1), 2, t, s, t)
    torch.testing.assert_close(belief.mean, first)
    torch.testing.assert_close(belief.after(x, s, path).mean, last)
    q = (first - last) / (t - s)[:, None]
    p = first - q * t[:, None]
    ratio, width = (s / t)[:, None], (s * ((1 - s) / s - (1 - t) / t))[:, None]
    exact = ratio * x + width * p + s[:, None] * q * (t / s).log()[:, None]
    torch.testing.assert_close(walked(belief, x, t, s, path, 1), exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(walked(belief, x, t, s, path, 7), exact, rtol=1e-12, atol=1e-12)
    # To the data all of the weight is at the end.
    end = torch.zeros(b, dtype=F64)
    belief = GridPosterior(torch.cat((first, last), 1), 2, t, end, t)
    torch.testing.assert_close(walked(belief, x, t, end, path, 3), last, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_grid_of_one_point_is_a_point(name):
    path = getattr(paths, name)()
    t, s = torch.tensor(0.9, dtype=F64), torch.tensor(0.3, dtype=F64)
    x, mean = normal(4, 3), normal(4, 3, seed=1)
    belief = GridPosterior(mean, 1, t, s, t)
    torch.testing.assert_close(
        walked(belief, x, t, s, path, 4), path.bridge(x, mean, t, s), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_arc_is_integrated_exactly(name):
    """Against the quadrature of its velocity; in one step or in parts; the velocity is that of its mean."""
    path, b, k, c = getattr(paths, name)(), 4, 3, 2
    t, s = torch.full((b,), 0.9, dtype=F64), torch.full((b,), 0.2, dtype=F64)
    x, parameters = normal(b, c), normal(b, k * (c + 2), seed=1)
    belief = ArcPosterior(parameters, k, t, x, t, path)
    nodes = torch.linspace(0.2, 0.9, 1401, dtype=F64)
    speeds = torch.stack([belief.after(x, r.expand(b), path).velocity for r in nodes])
    exact = x - torch.trapezoid(speeds, nodes, dim=0)
    torch.testing.assert_close(belief.onwards(x, t, s, path), exact, rtol=1e-7, atol=1e-7)
    middle = 0.6 * t + 0.4 * s
    parts = belief.onwards(belief.onwards(x, t, middle, path), middle, s, path)
    torch.testing.assert_close(parts, belief.onwards(x, t, s, path), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(path.velocity(x, belief.mean, t), belief.velocity, rtol=1e-9, atol=1e-9)
    # The first rate is nothing, whatever the network says.
    moved = parameters.clone()
    moved[:, -k] += 5.0
    torch.testing.assert_close(belief.replace(moved).onwards(x, t, s, path), belief.onwards(x, t, s, path))


def test_curves_are_beliefs_like_others():
    t = torch.full((4,), 0.9, dtype=F64)
    x, path = normal(4, 2), paths.rectified_flow()
    for belief in (
        GridPosterior(normal(4, 6), 3, t, 0 * t, t),
        ArcPosterior(normal(4, 12), 3, t, x, t, path),
    ):
        assert torch.equal(detach(belief).mean, belief.mean) and torch.equal(
            belief[1:3].mean, belief.mean[1:3]
        )
        target = belief.blend(belief, torch.tensor(0.5))
        assert float(belief.divergence(target, "l2").max()) < 1e-24
        assert torch.equal(belief.sample(), belief.mean) and float(belief.gap(target).abs().max()) < 1e-12
        torch.testing.assert_close(belief.guide(belief, torch.tensor(3.0)).mean, belief.mean)


# --- the network ------------------------------------------------------------------------------------------------------


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made = MLP(2, width=16, depth=1) if kind == "mlp" else UNet((16, 32), in_channels=2, num_classes=None)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made.double()


@pytest.mark.parametrize("kind", ["mixture", "grid", "arc"])
@pytest.mark.parametrize("body", ["mlp", "unet"])
def test_a_widened_network_starts_as_it_was(kind, body):
    import copy

    path, before = paths.rectified_flow(), network(body)
    made = policy(kind, 5, 4, 2)
    student = PolicyDenoiser(widened(copy.deepcopy(before), made), path, "edm", policy=made, sigma_data=0.7)
    plain = NetworkDenoiser(before, path, "edm", sigma_data=0.7)
    x = normal(3, 2) if body == "mlp" else normal(3, 2, 6, 10)
    t = torch.tensor([0.9, 0.5, 0.2], dtype=F64)
    belief = student(x, t)
    torch.testing.assert_close(belief.mean, plain(x, t).mean, rtol=1e-6, atol=1e-6)
    if kind != "grid":  # where there are weights, components are not equal, or they would stay so
        parts = belief._parts()[0].detach()
        assert float((parts[:, 0] - parts[:, 1]).abs().mean()) > 1e-3
    if kind == "mixture":
        alpha, _, sigma = path.coefficients(t)
        exact = 0.7 * sigma / (sigma**2 + (0.7 * alpha) ** 2).sqrt()
        torch.testing.assert_close(belief._parts()[2].flatten(1)[:, 0].exp(), exact)


@pytest.mark.parametrize("kind", ["mixture", "grid", "arc"])
@pytest.mark.parametrize("name", ["rectified_flow", "edm"])
def test_conformance(kind, name):
    made = policy(kind, 3, 4, 2)
    path = getattr(paths, name)()
    student = PolicyDenoiser(widened(network("mlp").float(), made), path, "edm", policy=made)
    check_denoiser(student, normal(6, 2).float())


@pytest.mark.parametrize("kind", ["mixture", "grid", "arc"])
def test_padding_stays_out_of_a_walk(kind):
    """Columns beyond the end of a sample hold zeros on the whole way and change none of the others."""
    made = policy(kind, 3, 4, 2)
    student = PolicyDenoiser(widened(network("unet"), made), paths.rectified_flow(), "edm", policy=made)
    like = torch.zeros(2, 2, 4, 12, dtype=F64)
    real = (torch.arange(12) < torch.tensor([8, 12])[:, None]).reshape(2, 1, 1, 12)
    whole = FewStep("ode").sample(student, like, 2, Context(mask=real), g=generator("pad")).x0
    assert not bool(whole[0, ..., 8:].any())
    x_1 = paths.rectified_flow().prior(like, Context(mask=real), g=generator("pad"))
    alone = (
        FewStep("ode")
        .sample(student, like[:1, ..., :8], 2, Context(mask=real[:1, ..., :8]), x_1=x_1[:1, ..., :8])
        .x0
    )
    torch.testing.assert_close(alone, whole[:1, ..., :8], rtol=1e-6, atol=1e-6)


def test_any_number_of_small_steps_is_one_call():
    made = policy("mixture", 3, 50, 2)
    student = PolicyDenoiser(widened(network("mlp"), made), paths.rectified_flow(), "edm", policy=made)
    like = torch.empty(4, 2, dtype=F64)
    for sampler, steps in ((FewStep("ode"), 1), (FewStep("ode"), 4), (Euler(), 3), (FewStep("renoise"), 2)):
        sample = sampler.sample(student, like, steps, g=generator("x"))
        assert sample.nfe == steps and bool(sample.x0.isfinite().all())


def test_a_jump_is_the_walk():
    made = policy("mixture", 3, 6, 2)
    path = paths.rectified_flow()
    student = PolicyDenoiser(widened(network("mlp"), made), path, "edm", policy=made)
    x, t, s = normal(4, 2), torch.tensor(1.0, dtype=F64), torch.tensor(0.5, dtype=F64)
    jump = path.bridge(x, student(x, t, target_time=s).mean, t, s)
    torch.testing.assert_close(jump, walked(student.policy(x, t), x, t, s, path, 6))
    assert student.calls == 2


def test_mistakes_are_one_line():
    path, made = paths.rectified_flow(), policy("mixture", 3, 6, 2)
    with pytest.raises(UserError, match=r"unknown kind of student\.policy 'gaussian'"):
        policy("gaussian", 3, 6, 2)
    with pytest.raises(UserError, match="parts >= 1"):
        policy("grid", 0, 6, 2)
    with pytest.raises(UserError, match="without an anchor"):
        PolicyDenoiser(network("mlp"), paths.grad_tts(), "edm", policy=made)
    with pytest.raises(UserError, match=r"needs answers of \(4, 12\), got \(4, 2\)"):
        PolicyDenoiser(network("mlp"), path, "edm", policy=made)(normal(4, 2), 0.5)
    with pytest.raises(UserError, match="got Linear with 2 outputs"):
        widened(network("mlp"), policy("mixture", 3, 6, 3))
    with pytest.raises(UserError, match=r"set student\.policy"):
        NetworkDenoiser(network("mlp"), path, "edm").policy(normal(4, 2), 0.5, Context())
