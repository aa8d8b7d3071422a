"""The Gaussian paths of the literature by name. Each is one `GaussianPath` with its coefficient functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from omnidistill.paths.gaussian import GaussianPath
from omnidistill.paths.symmetry import Symmetry
from omnidistill.paths.table import TablePath

HALF_PI = 0.5 * math.pi


def rectified_flow(symmetry: Symmetry | None = None, temperature: float = 1.0) -> GaussianPath:
    """`x_t = (1 - t) x0 + t eps` (Liu et al. 2022; Lipman et al. 2022)."""
    return GaussianPath(
        "rectified_flow",
        alpha=lambda t: 1.0 - t,
        sigma=lambda t: t,
        rates=lambda t: (-torch.ones_like(t), torch.zeros_like(t), torch.ones_like(t)),
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
        rates=lambda t: _circular(t, 1.0),
        span=(1e-3, 1.0 - 1e-3),
        inverse=lambda level: torch.atan(level) / HALF_PI,
    )


def _circular(t: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rates of `alpha = cos(pi t / 2)`, `sigma = radius sin(pi t / 2)`."""
    return (
        -HALF_PI * torch.sin(HALF_PI * t),
        torch.zeros_like(t),
        radius * HALF_PI * torch.sin(HALF_PI * (1.0 - t)),
    )


def trigflow(sigma_data: float = 1.0) -> GaussianPath:
    """`x = cos(tau) x0 + sin(tau) z`, z ~ N(0, sigma_data^2), tau = pi t / 2 (Lu & Song 2024, sec. 3)."""
    return GaussianPath(
        "trigflow",
        alpha=lambda t: torch.sin(HALF_PI * (1.0 - t)),
        sigma=lambda t: sigma_data * torch.sin(HALF_PI * t),
        rates=lambda t: _circular(t, sigma_data),
        span=(1e-3, 1.0),
        inverse=lambda level: torch.atan(level / sigma_data) / HALF_PI,
    )


def _vp(
    name: str, beta_min: float, beta_max: float, anchored: bool = False, temperature: float = 1.0
) -> GaussianPath:
    """Variance preserving with a linear rate `b(t)` and `I(t) = int_0^t b`: `alpha = exp(-I/2)`,
    `sigma^2 = 1 - exp(-I)`."""

    def integral(t: Tensor) -> Tensor:
        return beta_min * t + 0.5 * (beta_max - beta_min) * t * t

    def alpha(t: Tensor) -> Tensor:
        return torch.exp(-0.5 * integral(t))

    def sigma(t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-integral(t)))

    def rates(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rate = beta_min + (beta_max - beta_min) * t
        fall = 0.5 * rate * alpha(t)
        rise = 0.5 * rate * torch.exp(-integral(t)) / sigma(t)
        return -fall, fall if anchored else torch.zeros_like(t), rise

    return GaussianPath(
        name,
        alpha=alpha,
        sigma=sigma,
        beta=(lambda t: 1.0 - alpha(t)) if anchored else None,
        rates=rates,
        span=(1e-3, 1.0),
        temperature=temperature,
    )


def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0) -> GaussianPath:
    """`beta(t)` linear from beta_min to beta_max (Song et al. 2021, eq. 32)."""
    return _vp("vp_linear", beta_min, beta_max)


def discrete(alphas_cumprod: Tensor | Sequence[float], symmetry: Symmetry | None = None) -> TablePath:
    """The levels of a chain of N steps as a trained scheduler holds them, e.g. `DDPMScheduler.alphas_cumprod` (Ho et
    al. 2020), zero terminal signal-to-noise ratio included; see `TablePath`. A network that wants the step's number
    is read with `time_input="index"`."""
    return TablePath(alphas_cumprod, symmetry)


def grad_tts(beta_min: float = 0.05, beta_max: float = 20.0, temperature: float = 1.0) -> GaussianPath:
    """`dx = 1/2 beta (y - x) dt + sqrt(beta) dw`: the text encoder's mean y is the prior's (Popov et al. 2021, eqs.
    3 to 5, with Sigma = I)."""
    return _vp("grad_tts", beta_min, beta_max, anchored=True, temperature=temperature)


def edm(
    sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, symmetry: Symmetry | None = None
) -> GaussianPath:
    """Variance exploding: `alpha = 1`, `sigma = sigma_max t^rho`.

    Uniform times down to `span[0] = (sigma_min/sigma_max)^(1/rho)` are the noise levels of Karras et al. (2022), eq. 5:
    their own grid is `grid: karras` of a sampler; the nested one steps to 0 from the node above.
    """
    low = (sigma_min / sigma_max) ** (1.0 / rho)
    return GaussianPath(
        "edm",
        alpha=torch.ones_like,
        sigma=lambda t: sigma_max * t**rho,
        rates=lambda t: (torch.zeros_like(t), torch.zeros_like(t), sigma_max * rho * t ** (rho - 1.0)),
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

    def rates(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fall = stiffness * torch.exp(-stiffness * t)
        rise = log_k * torch.exp(2.0 * log_k * t) + stiffness * torch.exp(-2.0 * stiffness * t)
        return -fall, fall, scale * rise / torch.sqrt(variance(t))

    return GaussianPath(
        "ouve",
        alpha=lambda t: torch.exp(-stiffness * t),
        sigma=lambda t: torch.sqrt(variance(t)),
        beta=lambda t: -torch.expm1(-stiffness * t),
        rates=rates,
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
        rates=lambda t: (
            -torch.ones_like(t),
            torch.ones_like(t),
            0.5 * scale * (1.0 - 2.0 * t) / torch.sqrt(t * (1.0 - t)),
        ),
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

    def rates(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        late, root = ((t - first) / (1.0 - first)).clamp_min(1e-40), root_eta(t)
        slope = root * log_ratio * power * late ** (power - 1.0) / (1.0 - first)
        slope = torch.where(t < first, root_min / first, slope)
        return -2.0 * root * slope, 2.0 * root * slope, kappa * slope

    return GaussianPath(
        "residual_shift",
        alpha=lambda t: 1.0 - root_eta(t) ** 2,
        sigma=lambda t: kappa * root_eta(t),
        beta=lambda t: root_eta(t) ** 2,
        rates=rates,
        span=(first + 1e-3, 1.0),  # at `first` itself d eta/dt is infinite
        floor=first,
        gain=lambda t, s: torch.ones_like(t + s),
    )
