"""alpha, beta, sigma of a Gaussian path as functions of time, their rates, and time as a function of their ratio."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.paths.base import Time, holds, same
from omnidistill.shapes import Times

Function = Callable[[Tensor], Tensor]

SLACK = 1e-6
"""A time this far outside [0, 1] is a rounding of its end: a float32 sum, a noise level read back."""


class Coefficients(NamedTuple):
    """alpha, beta, sigma, each shaped like the times."""

    alpha: Times
    beta: Times
    sigma: Times


Rates = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""(alpha', beta', sigma') of t."""


class Curves:
    """The three functions of a Gaussian path and the views of time that follow from them.

    Everything here is plain tensor arithmetic without state: it nests under forward mode, `vmap` and compilation, and
    threads may share it.
    """

    _alpha: Function
    _sigma: Function
    _beta: Function | None
    _rates: Rates | None
    _inverse: Function | None

    def coefficients(self, t: Time) -> Coefficients:
        """alpha, beta, sigma at t in [0, 1]."""
        return self._at(_inside(t))

    def _at(self, t: Times) -> Coefficients:
        beta = torch.zeros_like(t) if self._beta is None else self._beta(t)
        return Coefficients(self._alpha(t), beta, self._sigma(t))

    def rates(self, t: Time) -> Coefficients:
        """Derivatives of alpha, beta, sigma with respect to t: in closed form for the paths of the literature, by
        differences of sixth order (relative error about 1e-11) for one that was made without `rates`."""
        t = _inside(t)
        if self._rates is not None:
            return Coefficients(*self._rates(t))
        return Coefficients(*(differences(lambda u, i=i: self._at(u)[i], t) for i in range(3)))  # type: ignore[misc]

    def noise_level(self, t: Time) -> Times:
        """`sigma / alpha`, the sigma of Karras et al. (2022); infinite where alpha is 0."""
        alpha, _, sigma = self.coefficients(t)
        return torch.where(alpha == 0, torch.inf, sigma / alpha)

    def log_snr(self, t: Time) -> Times:
        """`lambda = 2 log(alpha / sigma)`, decreasing in t (Kingma et al. 2021)."""
        return -2.0 * torch.log(self.noise_level(t))

    def time_from_noise_level(self, level: Tensor | float) -> Times:
        """t with `noise_level(t) = level`; closed form where known, else 100 bisections (to rounding)."""
        level = torch.as_tensor(level, dtype=torch.float64)
        if self._inverse is not None:
            return self._inverse(level).clamp(0.0, 1.0)  # the inverse of the highest level rounds above 1
        low, high = torch.zeros_like(level), torch.ones_like(level)
        for _ in range(100):
            middle = 0.5 * (low + high)
            alpha, _, sigma = self._at(middle)
            below = sigma < level * alpha
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)

    def time_from_log_snr(self, log_snr: Tensor | float) -> Times:
        """The time at which `log alpha^2/sigma^2` has this value."""
        return self.time_from_noise_level(torch.exp(-0.5 * torch.as_tensor(log_snr, dtype=torch.float64)))


def _inside(t: Time) -> Times:
    t = torch.as_tensor(t, dtype=torch.float64)
    kept = t.clamp(0.0, 1.0)
    if not same(kept, t) and not holds(((t >= -SLACK) & (t <= 1.0 + SLACK)).all()):
        raise UserError(f"time must lie in [0, 1], got {float(t.min()):g} to {float(t.max()):g}")
    return kept


def differences(function: Function, t: Times) -> Times:
    """`d function / dt` at t in [0, 1], from the polynomial through seven points around t that lie in [0, 1].

    The distance of the points is 1 % of that to the nearer end, so that a root or a logarithm there does no harm.
    """
    h = (0.01 * torch.minimum(t, 1.0 - t)).clamp_min(1e-5)
    centre = torch.minimum(torch.maximum(t, 3.0 * h), 1.0 - 3.0 * h)
    x = (t - centre) / h
    nodes = range(-3, 4)
    total = torch.zeros_like(t)
    for i in nodes:
        others = [j for j in nodes if j != i]
        scale = 1.0
        for j in others:
            scale *= i - j
        slope = torch.zeros_like(t)  # of the Lagrange polynomial that is 1 at node i
        for left in others:
            product = torch.ones_like(t)
            for j in others:
                if j != left:
                    product = product * (x - j)
            slope = slope + product
        total = total + function((centre + i * h).clamp(0.0, 1.0)) * slope / scale
    return total / h
