"""The Gaussian paths of the literature by name. Each is one `GaussianPath` with its coefficient functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omnidistill.paths.gaussian import GaussianPath
from omnidistill.paths.symmetry import Symmetry

HALF_PI = 0.5 * math.pi


def rectified_flow(symmetry: Symmetry | None = None, temperature: float = 1.0) -> GaussianPath:
    """`x_t = (1 - t) x0 + t eps` (Liu et al. 2022; Lipman et al. 2022)."""
    return GaussianPath(
        "rectified_flow",
        alpha=lambda t: 1.0 - t,
        sigma=lambda t: t,
        span=(1e-3, 1.0),
        inverse=lambda level: 1.0 / (1.0 + 1.0 / level),
        symmetry=symmetry,
        temperature=temperature,
    )


def vp_cosine() -> GaussianPath:
    """`alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)` (Nichol & Dhariwal 2021 without offset)."""
    return GaussianPath(
        "vp_cosine",
        # cos(pi/2) is 6e-17 in float64; sin(pi/2 (1 - t)) is the same function and exactly 0 at t = 1.
        alpha=lambda t: torch.sin(HALF_PI * (1.0 - t)),
        sigma=lambda t: torch.sin(HALF_PI * t),
        span=(1e-3, 1.0 - 1e-3),
        inverse=lambda level: torch.atan(level) / HALF_PI,
    )


def trigflow(sigma_data: float = 1.0) -> GaussianPath:
    """`x = cos(tau) x0 + sin(tau) z`, z ~ N(0, sigma_data^2), tau = pi t / 2 (Lu & Song 2024, sec. 3)."""
    return GaussianPath(
        "trigflow",
        alpha=lambda t: torch.sin(HALF_PI * (1.0 - t)),
        sigma=lambda t: sigma_data * torch.sin(HALF_PI * t),
        span=(1e-3, 1.0),
        inverse=lambda level: torch.atan(level / sigma_data) / HALF_PI,
    )


def _vp(integral, anchored: bool, name: str, temperature: float = 1.0) -> GaussianPath:  # type: ignore[no-untyped-def]
    """Variance preserving with `integral(t) = int_0^t beta`: `alpha = exp(-I/2)`, `sigma^2 = 1 - exp(-I)`."""

    def alpha(t: Tensor) -> Tensor:
        return torch.exp(-0.5 * integral(t))

    return GaussianPath(
        name,
        alpha=alpha,
        sigma=lambda t: torch.sqrt(-torch.expm1(-integral(t))),
        beta=(lambda t: 1.0 - alpha(t)) if anchored else None,
        span=(1e-3, 1.0),
        temperature=temperature,
    )


def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0) -> GaussianPath:
    """`beta(t)` linear from beta_min to beta_max (Song et al. 2021, eq. 32)."""
    return _vp(lambda t: beta_min * t + 0.5 * (beta_max - beta_min) * t * t, False, "vp_linear")


def grad_tts(beta_min: float = 0.05, beta_max: float = 20.0, temperature: float = 1.0) -> GaussianPath:
    """`dx = 1/2 beta (y - x) dt + sqrt(beta) dw`: the text encoder's mean y is the prior's (Popov et al. 2021, eqs.
    3 to 5, with Sigma = I)."""
    return _vp(lambda t: beta_min * t + 0.5 * (beta_max - beta_min) * t * t, True, "grad_tts", temperature)


def edm(
    sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, symmetry: Symmetry | None = None
) -> GaussianPath:
    """Variance exploding: `alpha = 1`, `sigma = sigma_max t^rho`.

    The grid of Karras et al. (2022), eq. 5, is uniform in t between `span[0] = (sigma_min/sigma_max)^(1/rho)` and
    1, and its last step goes to sigma = 0 at t = 0.
    """
    low = (sigma_min / sigma_max) ** (1.0 / rho)
    return GaussianPath(
        "edm",
        alpha=torch.ones_like,
        sigma=lambda t: sigma_max * t**rho,
        span=(low, 1.0),
        floor=low,
        inverse=lambda level: (level / sigma_max) ** (1.0 / rho),
        symmetry=symmetry,
    )


def ouve(
    stiffness: float = 1.5, sigma_min: float = 0.05, sigma_max: float = 0.5, temperature: float = 1.0
) -> GaussianPath:
    """Mean-reverting `dx = gamma (y - x) dt + sigma_min k^t sqrt(2 log k) dw`, k = sigma_max / sigma_min
    (Richter et al. 2023, SGMSE+, eqs. 8 and 9)."""
    log_k = math.log(sigma_max / sigma_min)
    scale = sigma_min**2 * log_k / (stiffness + log_k)

    def variance(t: Tensor) -> Tensor:
        # k^(2t) - exp(-2 gamma t), without cancellation near t = 0
        return scale * torch.exp(-2.0 * stiffness * t) * torch.expm1(2.0 * (stiffness + log_k) * t)

    return GaussianPath(
        "ouve",
        alpha=lambda t: torch.exp(-stiffness * t),
        sigma=lambda t: torch.sqrt(variance(t)),
        beta=lambda t: -torch.expm1(-stiffness * t),
        span=(0.03, 1.0),
        floor=0.03,
        temperature=temperature,
    )


def brownian_bridge(scale: float = 1.0) -> GaussianPath:
    """`x_t = (1 - t) x0 + t y + scale sqrt(t (1 - t)) eps` (Li et al. 2023, BBDM, eq. 4; y exactly at t = 1).

    x_1 holds neither x0 nor noise, so only the parameterisation `x0` can be asked there.
    """
    return GaussianPath(
        "brownian_bridge",
        alpha=lambda t: 1.0 - t,
        sigma=lambda t: scale * torch.sqrt(t * (1.0 - t)),
        beta=lambda t: t,
        span=(1e-3, 1.0),
        inverse=lambda level: 1.0 / (1.0 + (scale / level) ** 2),
    )


def residual_shift(
    kappa: float = 2.0, power: float = 0.3, first: float = 1.0 / 15.0, eta_max: float = 0.99
) -> GaussianPath:
    """`x_t = x0 + eta (y - x0) + kappa sqrt(eta) eps` with a geometric sqrt(eta) (Yue et al. 2023, ResShift, eqs.
    2 and 10). `first` is the paper's first step, 1/T: from there to t = 0 sqrt(eta) falls linearly to 0, so that
    t = 0 is data. The forward transition adds to x_s without shrinking it (its drift uses x0), hence gain 1.
    """
    root_min = min(0.04 / kappa, math.sqrt(0.001))
    log_ratio = math.log(math.sqrt(eta_max) / root_min)

    def root_eta(t: Tensor) -> Tensor:
        late = ((t - first) / (1.0 - first)).clamp_min(1e-40)
        return torch.where(t < first, root_min * t / first, root_min * torch.exp(log_ratio * late**power))

    return GaussianPath(
        "residual_shift",
        alpha=lambda t: 1.0 - root_eta(t) ** 2,
        sigma=lambda t: kappa * root_eta(t),
        beta=lambda t: root_eta(t) ** 2,
        span=(first + 1e-3, 1.0),  # at `first` itself d eta/dt is infinite
        floor=first,
        gain=lambda t, s: torch.ones_like(t + s),
    )
