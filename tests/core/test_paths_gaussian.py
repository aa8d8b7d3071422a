"""Gaussian paths: coefficients against their sources, views of time, and the bridge against Bayes' rule."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.errors import UserError

F64 = torch.float64
# (t, s) inside every span and above every floor
JUMPS = [(0.9, 0.85), (0.7, 0.2), (0.95, 0.1)]


def anchored(path, like, g):
    if "anchored" not in path.offers:
        return Context()
    return Context(anchor=torch.randn(like.shape, generator=g, dtype=F64))


def linear_map(path, t, s, churn):
    """(a, b, k, f) of `bridge = a x0 + b y + k x_t + f z`, read off the function itself by feeding it unit vectors."""
    zero, one = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64)

    def mean(x_t, x0, y):
        # Differences of two calls with the same noise leave the linear part.
        context = Context(anchor=y) if "anchored" in path.offers else Context()
        draw = torch.Generator().manual_seed(1)
        return path.bridge(x_t, x0, t, s, context, churn=churn, g=draw)

    rest = mean(zero, zero, zero)
    noise = torch.randn(1, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    anchor = mean(zero, zero, one) - rest if "anchored" in path.offers else zero
    parts = (mean(zero, one, zero) - rest, anchor, mean(one, zero, zero) - rest, rest / noise)
    return tuple(float(part) for part in parts)


# --- coefficients ---------------------------------------------------------------------------------


def test_time_zero_is_data(gaussian):
    alpha, beta, sigma = gaussian.coefficients(0.0)
    assert (float(alpha), float(beta), float(sigma)) == (1.0, 0.0, 0.0)


def test_coefficients_of_the_literature():
    t = torch.linspace(0.05, 0.95, 7, dtype=F64)
    for path in (paths.vp_linear(), paths.vp_cosine()):
        alpha, _, sigma = path.coefficients(t)
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-14)
    alpha = paths.vp_linear(0.1, 20.0).coefficients(t).alpha
    # Song et al. 2021, eq. 33: mean exp(-t^2 (beta_max - beta_min) / 4 - t beta_min / 2)
    torch.testing.assert_close(alpha, torch.exp(-0.25 * t**2 * 19.9 - 0.5 * t * 0.1), rtol=1e-14, atol=0)

    alpha, beta, sigma = paths.grad_tts(0.05, 20.0).coefficients(t)
    integral = 0.05 * t + 0.5 * 19.95 * t**2
    torch.testing.assert_close(alpha, torch.exp(-0.5 * integral), rtol=1e-14, atol=0)
    torch.testing.assert_close(beta, 1 - torch.exp(-0.5 * integral), rtol=1e-14, atol=0)
    torch.testing.assert_close(sigma**2, 1 - torch.exp(-integral), rtol=1e-13, atol=0)

    alpha, beta, sigma = paths.residual_shift(kappa=2.0, power=0.3).coefficients(t[1:])
    torch.testing.assert_close(alpha + beta, torch.ones_like(t[1:]), rtol=0, atol=1e-15)
    torch.testing.assert_close(sigma, 2.0 * beta.sqrt(), rtol=1e-14, atol=0)


def test_residual_shift_visits_the_discrete_schedule_of_its_paper():
    """ResShift, eq. 10, T = 15: sqrt(eta_k) = sqrt(eta_1) b^((k-1)/(T-1))^p (T-1), at t = k/T."""
    steps, kappa, power = 15, 2.0, 0.3
    first, last = min((0.04 / kappa) ** 2, 0.001), 0.99
    base = math.exp(math.log(last / first) / (2 * (steps - 1)))
    k = torch.arange(1, steps + 1, dtype=F64)
    exponent = ((k - 1) / (steps - 1)) ** power * (steps - 1)
    expected = first * base ** (2 * exponent)
    beta = paths.residual_shift(kappa, power).coefficients(k / steps).beta
    torch.testing.assert_close(beta, expected, rtol=1e-6, atol=0)


def test_edm_grid_is_karras_equation_5():
    steps = 18
    path = paths.edm(0.002, 80.0, 7.0)
    i = torch.arange(steps, dtype=F64)
    expected = (80.0 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7
    times = paths.floored(path, steps)
    assert float(times[-1]) == 0.0
    torch.testing.assert_close(path.noise_level(times[:-1]), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(paths.floored(path, 1), torch.tensor([1.0, 0.0], dtype=F64))


@pytest.mark.parametrize("t", [0.05, 0.4, 1.0])
def test_ouve_mean_and_variance_solve_its_sde(t):
    """d mean = gamma (y - mean) dt; d var = (-2 gamma var + g^2) dt; SGMSE+, eqs. 8 and 9."""
    gamma, low, high = 1.5, 0.05, 0.5
    log_k = math.log(high / low)

    def rates(u, state):
        diffusion = low * math.exp(log_k * u) * math.sqrt(2 * log_k)
        return [-gamma * state[0], -2 * gamma * state[1] + diffusion**2]

    solved = solve_ivp(rates, (0.0, t), [1.0, 0.0], rtol=1e-11, atol=1e-14).y[:, -1]
    alpha, beta, sigma = paths.ouve(gamma, low, high).coefficients(t)
    np.testing.assert_allclose([float(alpha), float(sigma) ** 2], solved, rtol=1e-8)
    assert float(alpha + beta) == pytest.approx(1.0, abs=1e-15)


def test_rates_are_the_derivatives(gaussian):
    t, h = torch.tensor([0.15, 0.4, 0.8], dtype=F64), 1e-6
    for rate, up, down in zip(
        gaussian.rates(t), gaussian.coefficients(t + h), gaussian.coefficients(t - h), strict=True
    ):
        torch.testing.assert_close(rate, (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


def test_a_time_outside_zero_to_one_is_refused():
    with pytest.raises(UserError, match="time must lie in"):
        paths.rectified_flow().coefficients(1.2)


# --- views of time --------------------------------------------------------------------------------


def test_time_noise_level_and_log_snr_round_trip(gaussian):
    t = torch.linspace(gaussian.span[0], 0.98, 40, dtype=F64)
    level, snr = gaussian.noise_level(t), gaussian.log_snr(t)
    torch.testing.assert_close(gaussian.time_from_noise_level(level), t, rtol=0, atol=1e-9)
    torch.testing.assert_close(gaussian.time_from_log_snr(snr), t, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        gaussian.noise_level(gaussian.time_from_noise_level(level)), level, rtol=1e-9, atol=0
    )
    alpha, _, sigma = gaussian.coefficients(t)
    torch.testing.assert_close(snr, 2 * torch.log(alpha / sigma), rtol=1e-12, atol=1e-12)
    assert bool((snr.diff() < 0).all())


def test_noise_level_is_infinite_where_nothing_of_the_data_is_left():
    assert float(paths.rectified_flow().noise_level(1.0)) == math.inf
    assert float(paths.rectified_flow().time_from_noise_level(math.inf)) == 1.0


# --- bridge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("churn", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("t, s", JUMPS)
def test_corrupt_then_bridge_has_the_law_of_corrupt(gaussian, t, s, churn):
    """Substituting x_t = alpha_t x0 + beta_t y + sigma_t eps into the bridge must give exactly q(x_s | x0)."""
    a, b, k, f = linear_map(gaussian, t, s, churn)
    (alpha_t, beta_t, sigma_t), (alpha_s, beta_s, sigma_s) = (
        [float(c) for c in gaussian.coefficients(u)] for u in (t, s)
    )
    assert a + k * alpha_t == pytest.approx(alpha_s, abs=1e-12)
    assert b + k * beta_t == pytest.approx(beta_s, abs=1e-12)
    assert (k * sigma_t) ** 2 + f**2 == pytest.approx(sigma_s**2, rel=1e-11)
    assert f == 0.0 if churn == 0.0 else f > 0.0


@pytest.mark.parametrize("t, s", JUMPS)
def test_full_churn_is_the_posterior_of_the_process(gaussian, t, s):
    """Bayes with x_s ~ N(m, sigma_s^2) and x_t = gain x_s + ... + N(0, sigma_t^2 - gain^2 sigma_s^2)."""
    (alpha_t, beta_t, sigma_t), (alpha_s, beta_s, sigma_s) = (
        [float(c) for c in gaussian.coefficients(u)] for u in (t, s)
    )
    gain = 1.0 if gaussian.name == "residual_shift" else alpha_t / alpha_s
    step = sigma_t**2 - gain**2 * sigma_s**2
    precision = 1 / sigma_s**2 + gain**2 / step
    a, b, k, f = linear_map(gaussian, t, s, 1.0)
    assert k == pytest.approx(gain / step / precision, rel=1e-9)
    assert f**2 == pytest.approx(1 / precision, rel=1e-9)
    assert a == pytest.approx(
        (alpha_s / sigma_s**2 - gain * (alpha_t - gain * alpha_s) / step) / precision, rel=1e-8, abs=1e-10
    )
    assert b == pytest.approx(
        (beta_s / sigma_s**2 - gain * (beta_t - gain * beta_s) / step) / precision, rel=1e-8, abs=1e-10
    )


def test_residual_shift_posterior_is_equation_7_of_its_paper():
    """mean = eta_s/eta_t x_t + (eta_t - eta_s)/eta_t x0, variance = kappa^2 eta_s/eta_t (eta_t - eta_s)."""
    path, kappa = paths.residual_shift(kappa=2.0), 2.0
    for t, s in JUMPS:
        eta_t, eta_s = (float(path.coefficients(u).beta) for u in (t, s))
        a, b, k, f = linear_map(path, t, s, 1.0)
        assert k == pytest.approx(eta_s / eta_t, rel=1e-12)
        assert a == pytest.approx(1 - eta_s / eta_t, rel=1e-12)
        assert b == pytest.approx(0.0, abs=1e-12)
        assert f**2 == pytest.approx(kappa**2 * eta_s / eta_t * (eta_t - eta_s), rel=1e-11)


def test_deterministic_bridge_is_ddim():
    path, (t, s) = paths.vp_cosine(), (0.8, 0.3)
    (alpha_t, _, sigma_t), (alpha_s, _, sigma_s) = path.coefficients(t), path.coefficients(s)
    x0, x_t = torch.randn(2, 5, 3, dtype=F64, generator=torch.Generator().manual_seed(2))
    eps = (x_t - alpha_t * x0) / sigma_t
    torch.testing.assert_close(
        path.bridge(x_t, x0, t, s), alpha_s * x0 + sigma_s * eps, rtol=1e-12, atol=1e-13
    )


def test_bridge_to_zero_returns_the_clean_sample(gaussian, g):
    x0, x_t = torch.randn(2, 3, 4, dtype=F64, generator=g)
    context = anchored(gaussian, x0, g)
    for t in (0.5, gaussian.span[1]):
        for churn in (0.0, 1.0):
            assert torch.equal(gaussian.bridge(x_t, x0, t, 0.0, context, churn=churn, g=g), x0)


def test_bridge_to_the_same_time_changes_nothing(gaussian, g):
    x0, x_t = torch.randn(2, 3, 4, dtype=F64, generator=g)
    context = anchored(gaussian, x0, g)
    for t in (0.4, 0.9) if gaussian.name == "brownian_bridge" else (0.4, 0.9, 1.0):
        torch.testing.assert_close(
            gaussian.bridge(x_t, x0, t, t, context, churn=1.0, g=g), x_t, rtol=1e-12, atol=1e-6
        )


@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
def test_moments_after_corrupt_and_bridge(gaussian, churn, g):
    count, t, s = 40_000, 0.8, 0.35
    x0 = torch.full((count, 1), 0.7, dtype=F64)
    context = Context(anchor=torch.full_like(x0, -1.1)) if "anchored" in gaussian.offers else Context()
    x_s = gaussian.bridge(gaussian.corrupt(x0, t, context, g=g), x0, t, s, context, churn=churn, g=g)
    alpha, beta, sigma = (float(c) for c in gaussian.coefficients(s))
    mean = 0.7 * alpha - (1.1 * beta if "anchored" in gaussian.offers else 0.0)
    assert float(x_s.mean()) == pytest.approx(mean, abs=4 * sigma / count**0.5)
    assert float(x_s.var()) == pytest.approx(sigma**2, rel=4 * (2 / count) ** 0.5)


def test_times_per_sample_equal_times_one_by_one(gaussian, g):
    x0, x_t = torch.randn(2, 3, 4, dtype=F64, generator=g)
    context = anchored(gaussian, x0, g)
    t, s = torch.tensor([0.9, 0.5, 0.3], dtype=F64), torch.tensor([0.2, 0.4, 0.0], dtype=F64)
    together = gaussian.bridge(x_t, x0, t, s, context)
    for i in range(3):
        alone = gaussian.bridge(x_t[i : i + 1], x0[i : i + 1], t[i], s[i], context[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-13, atol=1e-13)


def test_brownian_bridge_starts_at_its_anchor(g):
    path, scale = paths.brownian_bridge(scale=0.8), 0.8
    y = torch.full((30_000, 1), 2.0, dtype=F64)
    x0, context = torch.full_like(y, -1.0), Context(anchor=y)
    x_1 = path.prior(y, context, g=g)
    assert torch.equal(x_1, y)
    assert torch.equal(path.corrupt(x0, 1.0, context, g=g), y)
    # All noise is drawn on the way, whatever the churn: nothing was there to keep.
    x_s = path.bridge(x_1, x0, 1.0, 0.4, context, g=g)
    assert float(x_s.mean()) == pytest.approx(0.6 * -1.0 + 0.4 * 2.0, abs=4 * scale * 0.5 / 30_000**0.5)
    assert float(x_s.var()) == pytest.approx(scale**2 * 0.24, rel=0.04)


def test_prior_has_the_law_of_time_one(gaussian, g):
    like = torch.zeros(30_000, 1, dtype=F64)
    context = Context(anchor=torch.full_like(like, 1.5)) if "anchored" in gaussian.offers else Context()
    sample = gaussian.prior(like, context, g=g)
    sigma = float(gaussian.coefficients(1.0).sigma)
    mean = 1.5 if "anchored" in gaussian.offers else 0.0
    assert float(sample.mean()) == pytest.approx(mean, abs=4 * sigma / 30_000**0.5 + 1e-12)
    assert float(sample.std()) == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize("make", [paths.ouve, paths.grad_tts, paths.rectified_flow])
@pytest.mark.parametrize("temperature", [0.0, 0.4])
def test_the_temperature_scales_the_noise_of_samplers_and_not_of_training(make, temperature, g):
    cool, path = make(temperature=temperature), make()
    y = torch.full((30_000, 1), 1.5, dtype=F64)
    context, t = Context(anchor=y), 0.6
    sigma = float(path.coefficients(1.0).sigma)
    start = cool.prior(y, context, g=g)
    mean = 1.5 if "anchored" in path.offers else 0.0
    assert float(start.mean()) == pytest.approx(mean, abs=4 * temperature * sigma / 30_000**0.5)
    assert float(start.std()) == pytest.approx(temperature * sigma, rel=0.02)
    made = [p.corrupt(y, t, context, g=torch.Generator().manual_seed(3)) for p in (cool, path)]
    assert torch.equal(*made)
    alpha, beta, _ = path.coefficients(t)
    centre = alpha * y + (beta * y if "anchored" in path.offers else 0.0)
    again = cool.renoise(y, t, context, g=torch.Generator().manual_seed(3))
    torch.testing.assert_close(again - centre, temperature * (made[0] - centre))


def test_a_temperature_is_not_negative():
    with pytest.raises(UserError, match=r"temperature .* at least 0, got -1"):
        paths.ouve(temperature=-1)


def test_an_anchored_path_asks_for_its_anchor():
    with pytest.raises(UserError, match="needs an anchor"):
        paths.ouve().corrupt(torch.zeros(2, 3), 0.5)


# --- two jumps as one -----------------------------------------------------------------------------


@pytest.mark.parametrize("t, r, s", [(0.9, 0.6, 0.2), (0.9, 0.5, 0.0), (1.0, 0.7, 0.3), (1.0, 0.5, 0.0)])
def test_two_jumps_equal_one_jump_with_the_shared_belief(gaussian, g, t, r, s):
    x_t, first, second = torch.randn(3, 4, 5, dtype=F64, generator=g)
    context = anchored(gaussian, x_t, g)
    if gaussian.name == "brownian_bridge" and t == 1.0:
        x_t = context.anchor

    def jump(x, x0, u, v, seed=7):
        # Only the Brownian bridge draws noise here, and only at t = 1; both ways must draw the same.
        return gaussian.bridge(x, x0, u, v, context, g=torch.Generator().manual_seed(seed))

    x_r = jump(x_t, first, t, r)
    twice = jump(x_r, second, r, s)
    weight = gaussian.share(x_t, x_r, t, r, s)
    blended = gaussian.certain(first).blend(gaussian.certain(second), weight).sample()
    assert 0.0 <= float(weight) <= 1.0
    torch.testing.assert_close(jump(x_t, blended, t, s), twice, rtol=1e-11, atol=1e-12)
