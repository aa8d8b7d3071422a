"""All Gaussian-type processes are one formula: `x_t = alpha(t) x0 + beta(t) y + sigma(t) eps`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.paths.base import P, Time, as_time, per_sample
from omnidistill.paths.symmetry import NoSymmetry, Symmetry
from omnidistill.posteriors import PointPosterior
from omnidistill.random import normal

Function = Callable[[Tensor], Tensor]


class Coefficients(NamedTuple):
    """alpha, beta, sigma at one time, float64, shaped like the time."""

    alpha: Tensor
    beta: Tensor
    sigma: Tensor


class GaussianPath:
    """`q(x_t | x0, y) = N(alpha x0 + beta y, sigma^2 I)` with an optional anchor y.

    Args:
        name: for messages and saved files.
        alpha, sigma, beta: functions of t: Float64[...] in [0, 1]. `beta` is None for a path without anchor.
        span: times between which networks are trained and asked; singular ends lie outside.
        floor: lowest time that a sampling grid visits before it jumps to 0; 0 for a grid uniform down to 0.
        inverse: closed form of t from the noise level sigma/alpha, where there is one; else it is bisected.
        gain: a(t, s) of the forward transition `x_t = a x_s + ...` given the anchor; alpha_t / alpha_s for every
            linear process, 1 for the residual shift, whose drift depends on x0.
        symmetry: what `align` divides out, and what the noise is projected by.
        temperature: share of sigma in the noise that samplers start from and re-noise with. 1 samples what was learned;
            below, the deterministic solution starts near the mean of the prior and ends near what is most certain
            (Grad-TTS, Popov et al. 2021, sec. 4, divides by a temperature of 1.5: 0.67 here).
            Teachers are trained at 1.
    """

    def __init__(
        self,
        name: str,
        alpha: Function,
        sigma: Function,
        beta: Function | None = None,
        *,
        span: tuple[float, float] = (0.0, 1.0),
        floor: float = 0.0,
        inverse: Function | None = None,
        gain: Callable[[Tensor, Tensor], Tensor] | None = None,
        symmetry: Symmetry | None = None,
        temperature: float = 1.0,
    ) -> None:
        if not 0.0 <= temperature < float("inf"):
            raise UserError(f"temperature scales the noise of the start and is at least 0, got {temperature}")
        self.temperature = float(temperature)
        self.name, self._alpha, self._sigma, self._beta = name, alpha, sigma, beta
        self.span, self.floor, self._inverse, self._gain = span, floor, inverse, gain
        self.symmetry = symmetry or NoSymmetry()
        anchored = {"anchored"} if beta else set()
        self.offers = frozenset({"gaussian", "differentiable", "deterministic", "composable"} | anchored)

    def __repr__(self) -> str:
        return f"GaussianPath({self.name})"

    # --- coefficients and views of time -------------------------------------------------------------------------

    def coefficients(self, t: Time) -> Coefficients:
        """alpha, beta, sigma in float64 at t in [0, 1]."""
        t = torch.as_tensor(t, dtype=torch.float64)
        if bool(((t < 0) | (t > 1)).any()):
            raise UserError(f"time must lie in [0, 1], got {float(t.min())} to {float(t.max())}")
        beta = torch.zeros_like(t) if self._beta is None else self._beta(t)
        return Coefficients(self._alpha(t), beta, self._sigma(t))

    def rates(self, t: Time) -> Coefficients:
        """Derivatives of alpha, beta, sigma with respect to t, by forward differentiation: exact to rounding."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.func.jvp(self.coefficients_unchecked, (t,), (torch.ones_like(t),))[1]

    def coefficients_unchecked(self, t: Tensor) -> Coefficients:
        beta = torch.zeros_like(t) if self._beta is None else self._beta(t)
        return Coefficients(self._alpha(t), beta, self._sigma(t))

    def noise_level(self, t: Time) -> Tensor:
        """`sigma / alpha`, the sigma of Karras et al. (2022); infinite where alpha is 0."""
        alpha, _, sigma = self.coefficients(t)
        return torch.where(alpha == 0, torch.inf, sigma / alpha)

    def log_snr(self, t: Time) -> Tensor:
        """`lambda = 2 log(alpha / sigma)`, decreasing in t (Kingma et al. 2021)."""
        return -2.0 * torch.log(self.noise_level(t))

    def time_from_noise_level(self, level: Tensor | float) -> Tensor:
        """t with `noise_level(t) = level`, float64; closed form where known, else 100 bisections (to rounding)."""
        level = torch.as_tensor(level, dtype=torch.float64)
        if self._inverse is not None:
            return self._inverse(level)
        low, high = torch.zeros_like(level), torch.ones_like(level)
        for _ in range(100):
            middle = 0.5 * (low + high)
            alpha, _, sigma = self.coefficients_unchecked(middle)
            below = sigma < level * alpha
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)

    def time_from_log_snr(self, log_snr: Tensor | float) -> Tensor:
        return self.time_from_noise_level(torch.exp(-0.5 * torch.as_tensor(log_snr, dtype=torch.float64)))

    # --- the verbs of a path ------------------------------------------------------------------------------------

    def _anchor(self, context: Context, like: Tensor) -> Tensor | float:
        if self._beta is None:
            return 0.0
        if context.anchor is None:
            raise UserError(
                f"path '{self.name}' needs an anchor y shaped {tuple(like.shape)}; the batch has none"
            )
        return context.anchor

    def _noise(self, like: Tensor, context: Context, g: torch.Generator | None) -> Tensor:
        return self.symmetry.project(normal(like, g, context.mask), context.mask)

    def prior(
        self, like: Tensor, context: Context = Context(), *, g: torch.Generator | None = None
    ) -> Tensor:
        """`N((alpha(1) + beta(1)) y, (temperature sigma(1))^2)`: where alpha(1) is not 0, the anchor stands in for x0,
        as in SGMSE+ (Richter et al. 2023, eq. 20) and Grad-TTS; without an anchor the mean is 0."""
        alpha, beta, sigma = self.coefficients(1.0)
        mean = (alpha + beta).item() * self._anchor(context, like)
        return mean + self.temperature * sigma.item() * self._noise(like, context, g)

    def corrupt(
        self, x0: Tensor, t: Time, context: Context = Context(), *, g: torch.Generator | None = None
    ) -> Tensor:
        return self._noised(x0, t, context, 1.0, g)

    def renoise(
        self, x0: Tensor, t: Time, context: Context = Context(), *, g: torch.Generator | None = None
    ) -> Tensor:
        return self._noised(x0, t, context, self.temperature, g)

    def _noised(
        self, x0: Tensor, t: Time, context: Context, temperature: float, g: torch.Generator | None
    ) -> Tensor:
        alpha, beta, sigma = (per_sample(c, x0) for c in self.coefficients(as_time(t, x0)))
        noise = self._noise(x0, context, g)
        return alpha * x0 + beta * self._anchor(context, x0) + temperature * sigma * noise

    def bridge(
        self,
        x_t: Tensor,
        x0: Tensor,
        t: Time,
        s: Time,
        context: Context = Context(),
        *,
        churn: float = 0.0,
        g: torch.Generator | None = None,
    ) -> Tensor:
        """`x_s = alpha_s x0 + beta_s y + sqrt(sigma_s^2 - c^2) eps_hat + c z` with `eps_hat` read off x_t
        (Song et al. 2021, DDIM eq. 12; Zhou et al. 2024 for bridges). `c = churn c_max`, where
        `c_max^2 = sigma_s^2 (1 - a^2 sigma_s^2 / sigma_t^2)` is the variance of the process's own posterior.
        """
        t, s = as_time(t, x0), as_time(s, x0)
        (alpha_t, beta_t, sigma_t), (alpha_s, beta_s, sigma_s) = self.coefficients(t), self.coefficients(s)
        # alpha_s = 0 only where s = t = 1: no time passes, nothing shrinks.
        gain = self._gain(t, s) if self._gain else torch.where(alpha_s == 0, 1.0, alpha_t / alpha_s)
        fresh = (
            churn * sigma_s * (1.0 - (gain * sigma_s / sigma_t) ** 2).clamp_min(0.0).sqrt()
        ).broadcast_to(torch.broadcast_shapes(t.shape, s.shape))
        # Where x_t holds no noise at all (a bridge at t = 1) there is none to keep: all of it is drawn afresh.
        fresh = torch.where(sigma_t == 0, sigma_s, fresh)
        kept = torch.where(sigma_t == 0, 0.0, (sigma_s**2 - fresh**2).clamp_min(0.0).sqrt() / sigma_t)
        anchor = self._anchor(context, x0)
        a_t, b_t, a_s, b_s, k, f = (
            per_sample(c, x0) for c in (alpha_t, beta_t, alpha_s, beta_s, kept, fresh)
        )
        x_s = (a_s - k * a_t) * x0 + (b_s - k * b_t) * anchor + k * x_t
        if bool((fresh > 0).any()):
            x_s = x_s + f * self._noise(x0, context, g)
        return x_s

    def unresolved(self, x_t: Tensor, t: Time) -> Tensor:
        return torch.ones_like(x_t, dtype=torch.bool)

    def align(self, target: P, to: P, mask: Tensor | None = None) -> P:
        return target.replace(self.symmetry.align(target.parameters, to.parameters, mask))

    def share(self, x_t: Tensor, x_r: Tensor, t: Time, r: Time, s: Time) -> Tensor:
        """With `rho = alpha / sigma`, a deterministic jump is linear in rho (DDIM), so the weight of the first
        belief is `(rho_r - rho_t) / (rho_s - rho_t)` (Salimans & Ho 2022, appendix G, solved for x0). Written
        without dividing by sigma_s, which may be 0. Float64[b] or scalar."""
        (a_t, _, n_t), (a_r, _, n_r), (a_s, _, n_s) = (self.coefficients(as_time(u, x_t)) for u in (t, r, s))
        # A bridge at t = 1 has neither x0 nor noise; there rho -> 0 like sqrt(1 - t).
        rho_t = torch.where(n_t == 0, 0.0, a_t / n_t)
        return n_s * (a_r - rho_t * n_r) / (n_r * (a_s - rho_t * n_s))

    def certain(self, x0: Tensor) -> PointPosterior:
        return PointPosterior(x0)
