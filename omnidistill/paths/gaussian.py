"""All Gaussian-type processes are one formula: `x_t = alpha(t) x0 + beta(t) y + sigma(t) eps`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.paths.base import P, Time, as_time, holds, per_sample
from omnidistill.paths.coefficients import Coefficients, Curves, Function, Rates
from omnidistill.paths.symmetry import NoSymmetry, Symmetry
from omnidistill.posteriors import PointPosterior
from omnidistill.random import normal
from omnidistill.shapes import Mask, Real, Undecided

__all__ = ["Coefficients", "GaussianPath"]

Share = Float[Tensor, ""] | Float[Tensor, "b"] | Float[Tensor, "b *#state"]


class GaussianPath(Curves):
    """`q(x_t | x0, y) = N(alpha x0 + beta y, sigma^2 I)` with an optional anchor y.

    Args:
        name: for messages and saved files.
        alpha, sigma, beta: functions of t in [0, 1]. `beta` is None for a path without anchor.
        rates: their derivatives, `t -> (alpha', beta', sigma')`; None differentiates numerically.
        span: times between which networks are trained and asked; singular ends lie outside.
        floor: time that a sampling grid would end at and where it puts 0 instead; 0 for a grid uniform down to 0.
        inverse: closed form of t from the noise level sigma/alpha, where there is one; else it is bisected.
        gain: a(t, s) of the forward transition `x_t = a x_s + ...` given the anchor; alpha_t / alpha_s for every
            linear process, 1 for the residual shift, whose drift depends on x0.
        symmetry: what `align` divides out, and what the noise is projected by.
        temperature: share of sigma in the noise that samplers start from, keep and draw anew. 1 samples what was
            learned; below, the deterministic solution starts near the mean of the prior and ends near what is most
            certain (Grad-TTS, Popov et al. 2021, sec. 4, divides by a temperature of 1.5: 0.67 here).
            Teachers are trained at 1.
        time_axis: the axis of a state along which a time [b f] runs, e.g. 2 for frames of Float[b c f h w].

    It offers `deterministic` where sigma is positive from the prior down: a state without noise says nothing about
    which sample it leads to, so noise is drawn on the way from it.
    """

    def __init__(
        self,
        name: str,
        alpha: Function,
        sigma: Function,
        beta: Function | None = None,
        *,
        rates: Rates | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        floor: float = 0.0,
        inverse: Function | None = None,
        gain: Callable[[Tensor, Tensor], Tensor] | None = None,
        symmetry: Symmetry | None = None,
        temperature: float = 1.0,
        time_axis: int | None = None,
    ) -> None:
        if not 0.0 <= temperature < float("inf"):
            raise UserError(f"temperature scales the noise of the start and is at least 0, got {temperature}")
        self.temperature = float(temperature)
        self.name, self._alpha, self._sigma, self._beta, self._rates = name, alpha, sigma, beta, rates
        self.span, self.floor, self._inverse, self._gain = span, floor, inverse, gain
        self.symmetry, self.time_axis = symmetry or NoSymmetry(), time_axis
        words = {"gaussian", "differentiable", "composable"} | ({"anchored"} if beta else set())
        ends = self.coefficients(torch.tensor([span[1], 1.0], dtype=torch.float64)).sigma
        self.offers = frozenset(words | ({"deterministic"} if bool((ends > 0).all()) else set()))

    def __repr__(self) -> str:
        return f"GaussianPath({self.name})"

    def along(self, time_axis: int) -> GaussianPath:
        """The same process for states whose noise level differs along an axis (a time per frame, [b f])."""
        other = copy.copy(self)
        other.time_axis = time_axis
        return other

    # --- the verbs of a path ------------------------------------------------------------------------------------

    def _anchor(self, context: Context, like: Real) -> Real | float:
        if self._beta is None:
            return 0.0
        if context.anchor is None:
            raise UserError(
                f"path '{self.name}' needs an anchor y shaped {tuple(like.shape)}; the batch has none"
            )
        return context.anchor

    def _noise(self, like: Real, context: Context, g: torch.Generator | None) -> Real:
        return self.symmetry.project(normal(like, g, context.mask), context.mask)

    def prior(self, like: Real, context: Context = Context(), *, g: torch.Generator | None = None) -> Real:
        """`N((alpha(1) + beta(1)) y, (temperature sigma(1))^2)`: where alpha(1) is not 0, the anchor stands in for x0,
        as in SGMSE+ (Richter et al. 2023, eq. 20) and Grad-TTS; without an anchor the mean is 0."""
        alpha, beta, sigma = self.coefficients(1.0)
        mean = (alpha + beta).item() * self._anchor(context, like)
        return mean + self.temperature * sigma.item() * self._noise(like, context, g)

    def corrupt(
        self, x0: Real, t: Time, context: Context = Context(), *, g: torch.Generator | None = None
    ) -> Real:
        return self._noised(x0, t, context, 1.0, g)

    def renoise(
        self, x0: Real, t: Time, context: Context = Context(), *, g: torch.Generator | None = None
    ) -> Real:
        return self._noised(x0, t, context, self.temperature, g)

    def expected(self, x0: Real, t: Time, context: Context = Context()) -> Real:
        """`alpha x0 + beta y`: the state without its noise."""
        alpha, beta, _ = self._shaped(self.coefficients(as_time(t, x0)), x0)
        return alpha * x0 + beta * self._anchor(context, x0)

    def _noised(
        self, x0: Real, t: Time, context: Context, temperature: float, g: torch.Generator | None
    ) -> Real:
        alpha, beta, sigma = self.coefficients(as_time(t, x0))
        if self._beta is None:
            alpha, sigma = self._shaped((alpha, sigma), x0)
            return alpha * x0 + temperature * sigma * self._noise(x0, context, g)
        alpha, beta, sigma = self._shaped((alpha, beta, sigma), x0)
        noise = self._noise(x0, context, g)
        return alpha * x0 + beta * self._anchor(context, x0) + temperature * sigma * noise

    def _shaped(self, values: tuple[Tensor, ...], like: Tensor) -> tuple[Tensor, ...]:
        return tuple(per_sample(value, like, self.time_axis) for value in values)

    def onwards(
        self, x_s: Real, s: Time, t: Time, context: Context = Context(), *, g: torch.Generator | None = None
    ) -> tuple[Real, Real, Float[Tensor, "..."]]:
        """x_t ~ q(x_t | x_s) for t > s, and what a denoiser of the law of x_t learns from it when x_s is not data.

            x_t = a x_s + (beta_t - a beta_s) y + b eps,   a = alpha_t / alpha_s,   b^2 = sigma_t^2 - a^2 sigma_s^2

        whose score, whatever the law of x_s, is `E[-eps / b | x_t]` (denoising score matching at s, Vincent 2011). The
        belief with this score is `E[target | x_t]` with `target = (x_t - beta_t y - sigma_t^2 eps / b) / alpha_t`. On
        a rectified flow that is the velocity `(t eps / b - x_t) / (1 - t)` of Phased DMD (Fan et al. 2025,
        arXiv:2510.27684). At s = 0 it is x_s; otherwise it has a variance of order `1 / b^2`, and the weight
        `b^2 / sigma_t^2`, which is returned too, keeps that finite.

        Raises:
            UserError: a path whose drift depends on x0 (residual shift), which no state x_s determines.
        """
        if self._gain is not None:
            raise UserError(
                f"{self} goes on from x_s by its x0, too; noise the sample itself there (Uniform times)"
            )
        t, s = as_time(t, x_s), as_time(s, x_s)
        (alpha_t, beta_t, sigma_t), (alpha_s, beta_s, sigma_s) = self.coefficients(t), self.coefficients(s)
        a = alpha_t / alpha_s
        b = (sigma_t**2 - (a * sigma_s) ** 2).sqrt()
        gain, lean, fresh, back, alpha, beta = self._shaped(
            (a, beta_t - a * beta_s, b, sigma_t**2 / b, alpha_t, beta_t.broadcast_to(t.shape)), x_s
        )
        noise, anchor = self._noise(x_s, context, g), self._anchor(context, x_s)
        x_t = gain * x_s + lean * anchor + fresh * noise
        return x_t, (x_t - beta * anchor - back * noise) / alpha, (b / sigma_t) ** 2

    def bridge(
        self,
        x_t: Real,
        x0: Real,
        t: Time,
        s: Time,
        context: Context = Context(),
        *,
        churn: float = 0.0,
        gamma: float | None = None,
        g: torch.Generator | None = None,
    ) -> Real:
        """A draw from `bridge_law`."""
        mean, std = self.bridge_law(x_t, x0, t, s, context, churn=churn, gamma=gamma)
        if not churn and not gamma and "deterministic" in self.offers:
            return mean
        return mean + std * self._noise(x0, context, g) if holds((std > 0).any()) else mean

    def bridge_law(
        self,
        x_t: Real,
        x0: Real,
        t: Time,
        s: Time,
        context: Context = Context(),
        *,
        churn: float = 0.0,
        gamma: float | None = None,
    ) -> tuple[Real, Float[Tensor, ""] | Float[Tensor, "#b *#state"]]:
        """Mean and standard deviation of

            x_s = alpha_s x0 + beta_s y + sqrt(sigma_s^2 - c^2) eps_hat + temperature c z

        with `eps_hat` read off x_t (Song et al. 2021, DDIM eq. 12; Zhou et al. 2024 for bridges). `eps_hat` has the
        temperature already, so x_s has it for every c. `c = churn c_max`, where
        `c_max^2 = sigma_s^2 (1 - a^2 sigma_s^2 / sigma_t^2)` is the variance of the process's own posterior; with
        `gamma`, `c = gamma sigma_s` instead.

        That is a jump down to the time s' whose noise level is `sqrt(1 - gamma^2)` times that of s, and the process's
        own transition up to s (Kim et al. 2023, CTM, alg. 1): `x_s = a x_s' + ...` with a = alpha_s / alpha_s' adds
        noise of variance `sigma_s^2 - a^2 sigma_s'^2`, and `a sigma_s' = sqrt(1 - gamma^2) sigma_s`. 0 is the
        deterministic jump, 1 is `renoise`.
        """
        t, s = as_time(t, x0), as_time(s, x0)
        (alpha_t, beta_t, sigma_t), (alpha_s, beta_s, sigma_s) = self.coefficients(t), self.coefficients(s)
        if gamma:
            fresh = gamma * sigma_s
        elif churn:
            # alpha_s = 0 only where s = t = 1: no time passes, nothing shrinks.
            gain = self._gain(t, s) if self._gain else torch.where(alpha_s == 0, 1.0, alpha_t / alpha_s)
            fresh = churn * sigma_s * (1.0 - (gain * sigma_s / sigma_t) ** 2).clamp_min(0.0).sqrt()
        else:
            fresh = torch.zeros_like(sigma_s)
        fresh = fresh.broadcast_to(torch.broadcast_shapes(t.shape, s.shape))
        stays = (sigma_s**2 - fresh**2).clamp_min(0.0).sqrt() if churn or gamma else sigma_s
        # Where x_t holds no noise at all (a bridge at t = 1) there is none to keep: all of it is drawn afresh.
        fresh = self.temperature * torch.where(sigma_t == 0, sigma_s, fresh)
        kept = torch.where(sigma_t == 0, 0.0, stays / sigma_t)
        a_t, b_t, a_s, b_s, k, f = self._shaped((alpha_t, beta_t, alpha_s, beta_s, kept, fresh), x0)
        return (a_s - k * a_t) * x0 + (b_s - k * b_t) * self._anchor(context, x0) + k * x_t, f

    def velocity(self, x_t: Real, x0: Real, t: Time, context: Context = Context()) -> Real:
        """`alpha' x0 + beta' y + sigma' eps_hat`, with `eps_hat` read off x_t: dx/dt of the deterministic trajectory
        (the probability flow: Song et al. 2021, eq. 13), which is `d/ds bridge` at s = t."""
        t = as_time(t, x_t)
        alpha, beta, sigma = self.coefficients(t)
        if not holds((sigma > 0).all()):
            raise UserError(f"{self} has no velocity where it has no noise; ask inside its span {self.span}")
        alpha_rate, beta_rate, sigma_rate = self.rates(t)
        k = sigma_rate / sigma
        a, b, k = self._shaped((alpha_rate - k * alpha, beta_rate - k * beta, k), x_t)
        return a * x0 + b * self._anchor(context, x_t) + k * x_t

    def unresolved(self, x_t: Real, t: Time) -> Undecided:
        return torch.ones_like(x_t, dtype=torch.bool)

    def align(self, target: P, to: P, mask: Mask | None = None) -> P:
        return target.replace(self.symmetry.align(target.parameters, to.parameters, mask))

    def share(self, x_t: Real, x_r: Real, t: Time, r: Time, s: Time) -> Share:
        """With `rho = alpha / sigma`, a deterministic jump is linear in rho (DDIM), so the weight of the first
        belief is `(rho_r - rho_t) / (rho_s - rho_t)` (Salimans & Ho 2022, appendix G, solved for x0). Written
        without dividing by sigma_s, which may be 0."""
        (a_t, _, n_t), (a_r, _, n_r), (a_s, _, n_s) = (self.coefficients(as_time(u, x_t)) for u in (t, r, s))
        # A bridge at t = 1 has neither x0 nor noise; there rho -> 0 like sqrt(1 - t).
        rho_t = torch.where(n_t == 0, 0.0, a_t / n_t)
        weight = n_s * (a_r - rho_t * n_r) / (n_r * (a_s - rho_t * n_s))
        return weight if weight.ndim < 2 else per_sample(weight, x_t, self.time_axis)

    def certain(self, x0: Real) -> PointPosterior:
        return PointPosterior(x0)
