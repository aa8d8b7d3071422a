"""Rates of coefficients and schedules in closed form: right, nestable, and the same in every thread."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.autograd.forward_ad as fa

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.parameterisation import PARAMETERISATIONS, to_x0
from omnidistill.errors import UserError
from omnidistill.paths.coefficients import differences
from omnidistill.paths.schedules import NAMED, polynomial, rate
from omnidistill.random import generator
from omnidistill.samplers import Euler
from omnidistill.weights import weight

F64 = torch.float64
T = torch.tensor([0.2, 0.3, 0.55, 0.97], dtype=F64)


def around(path, like, seed=3):
    if "anchored" not in path.offers:
        return Context()
    return Context(anchor=torch.randn(like.shape, generator=generator(seed), dtype=F64))


def test_rates_are_the_closed_forms(gaussian):
    for i, found in enumerate(gaussian.rates(T)):
        wanted = differences(lambda u, i=i: gaussian.coefficients(u)[i], T)
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", [*NAMED, "cubic"])
def test_rates_of_schedules(name):
    alpha = polynomial(3.0) if name == "cubic" else NAMED[name]
    torch.testing.assert_close(rate(alpha, T), differences(alpha, T), rtol=1e-8, atol=1e-10)
    own = rate(lambda t: alpha(t), T)  # a function of the user's is differentiated numerically
    torch.testing.assert_close(own, rate(alpha, T), rtol=1e-8, atol=1e-10)
    path = paths.MaskedPath(3, alpha)
    torch.testing.assert_close(weight("nelbo", path, T), -rate(alpha, T) / (1.0 - alpha(T)))


@pytest.mark.parametrize("t", [0.0, 1e-6, 0.2, 1.0 - 1e-6, 1.0])
def test_differences_hold_up_to_the_ends(t):
    t = torch.tensor(t, dtype=F64)
    torch.testing.assert_close(differences(torch.exp, t), torch.exp(t), rtol=1e-9, atol=0)


def test_a_path_without_rates_has_them_by_differences():
    own = paths.GaussianPath("own", alpha=lambda t: 1.0 - t, sigma=lambda t: torch.sqrt(t), span=(1e-3, 1.0))
    torch.testing.assert_close(own.rates(T).sigma, 0.5 * T.rsqrt(), rtol=1e-9, atol=0)
    torch.testing.assert_close(own.rates(T).alpha, -torch.ones_like(T), rtol=1e-9, atol=0)


def test_forward_mode_nests(gaussian):
    """The rate of the rate, by functional and by plain dual numbers, against differences of the closed rate."""
    for i in range(3):
        wanted = differences(lambda u, i=i: gaussian.rates(u)[i], T)
        found = torch.func.jvp(lambda u, i=i: gaussian.rates(u)[i], (T,), (torch.ones_like(T),))[1]
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)
        with fa.dual_level():
            dual = fa.unpack_dual(gaussian.rates(fa.make_dual(T, torch.ones_like(T)))[i]).tangent
        torch.testing.assert_close(
            torch.zeros_like(T) if dual is None else dual, wanted, rtol=1e-6, atol=1e-8
        )

    def second(u):
        return torch.func.jvp(lambda v: gaussian.coefficients(v).sigma, (u,), (torch.ones_like(u),))[1]

    twice = torch.func.jvp(second, (T,), (torch.ones_like(T),))[1]
    torch.testing.assert_close(twice, differences(lambda u: gaussian.rates(u).sigma, T), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_forward_mode_and_vmap_run_through_a_reading_and_a_jump(gaussian, kind, g):
    """d/dt of x_s after one deterministic jump, against central differences; one sample at a time by vmap."""
    x, out = torch.randn(2, 4, 3, dtype=F64, generator=g)
    context = around(gaussian, x)

    def jump(x, t, out=out, anchor=context.anchor):
        x0 = to_x0(gaussian, kind, out, x, t, anchor, 0.5)
        # The mean, for a jump that may have to draw noise cannot be mapped over without saying how.
        return gaussian.bridge_law(x, x0, t, 0.5 * t, Context(anchor=anchor))[0]

    t, h = torch.tensor([0.3, 0.5, 0.7, 0.9], dtype=F64), 1e-6
    tangent = torch.func.jvp(jump, (x, t), (torch.zeros_like(x), torch.ones_like(t)))[1]
    torch.testing.assert_close(tangent, (jump(x, t + h) - jump(x, t - h)) / (2 * h), rtol=1e-5, atol=1e-6)
    anchors = torch.zeros_like(x) if context.anchor is None else context.anchor
    one = torch.func.vmap(
        lambda x, t, out, y: jump(x[None], t, out[None], None if context.anchor is None else y[None])[0]
    )(x, t, out, anchors)
    torch.testing.assert_close(one, jump(x, t), rtol=1e-12, atol=1e-12)


def test_a_jump_compiles_without_a_break():
    path = paths.edm()

    def jump(x, out, t):
        return path.bridge(x, to_x0(path, "edm", out, x, t), t, 0.5 * t)

    x, out = torch.randn(2, 4, 3, generator=generator("compiled"))
    t = torch.tensor([0.5, 0.6, 0.7, 0.8], dtype=F64)
    compiled = torch.compile(jump, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, out, t), jump(x, out, t))
    torch.compiler.reset()


def test_velocity_is_the_rate_of_the_trajectory(gaussian, g):
    """Of x_t at fixed x0, y and noise; and no number where there is no noise to follow."""
    x0, eps = torch.randn(2, 4, 3, dtype=F64, generator=g)
    context, t = around(gaussian, x0), torch.tensor([0.2, 0.4, 0.7, 0.95], dtype=F64)

    def state(u):
        alpha, beta, sigma = (c[:, None] for c in gaussian.coefficients(u))
        return alpha * x0 + sigma * eps + (0.0 if context.anchor is None else beta * context.anchor)

    h = 1e-6
    wanted = (state(t + h) - state(t - h)) / (2 * h)
    found = gaussian.velocity(state(t), x0, t, context)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match="no velocity where it has no noise"):
        gaussian.velocity(x0, x0, 0.0, context)


def test_tokens_have_no_velocity():
    x = torch.zeros(2, 3, dtype=torch.long)
    for path in (paths.MaskedPath(4), paths.UniformPath(4)):
        with pytest.raises(UserError, match="tokens have no velocity"):
            path.velocity(x, x, 0.5)


def test_threads_that_sample_together_make_the_bits_of_one_alone():
    torch.manual_seed(0)

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(3, 2)

        def forward(self, x, time):
            return torch.tanh(self.line(torch.cat((x, time[:, None]), 1)))

    denoisers = [
        NetworkDenoiser(Small(), p(), "flow") for p in (paths.rectified_flow, paths.trigflow, paths.edm)
    ]
    jobs = list(itertools.product(denoisers, range(20)))

    def make(job):
        denoiser, seed = job
        return Euler().sample(denoiser, torch.empty(16, 2), 8, g=generator("threads", seed)).x0

    alone = [make(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(make, jobs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_times_at_the_edge_of_rounding_are_the_ends(gaussian):
    """A float32 sum or an inverse that is off in its last bits is the end that it means; anything more is refused."""
    edge = torch.tensor([-1e-9, 1.0 + 1e-7], dtype=F64)
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    for found, wanted in zip(gaussian.coefficients(edge), gaussian.coefficients(ends), strict=True):
        assert torch.equal(found, wanted)
    level = gaussian.noise_level(torch.tensor(gaussian.span, dtype=F64))
    back = gaussian.time_from_noise_level(level * (1.0 + 1e-15))
    assert bool(((back >= 0) & (back <= 1)).all())
    for wrong in (-0.01, 1.001, float("nan")):
        with pytest.raises(UserError, match="time must lie in"):
            gaussian.coefficients(wrong)
