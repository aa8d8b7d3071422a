"""A clean vector given a corrupted one: a mixture of Gaussians about a linear guess."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from omnidistill.exact.mixture import Mixture
from omnidistill.random import categorical, generator

SEPARATION = 2.4  # between two modes
SPREAD = (0.08, 0.2)  # standard deviations of a mode along its axes


class LinearMixture(NamedTuple):
    """`x0 | y ~ sum_j w_j N(A y + b + m_j, Q diag(variance) Q^T)`, with `sum_j w_j m_j = 0`.

    slope: A. offset: b. shifts: m. weights: w. axes: Q, orthogonal.
    """

    slope: Float64[Tensor, "d d"]
    offset: Float64[Tensor, "d"]
    shifts: Float64[Tensor, "k d"]
    weights: Float64[Tensor, "k"]
    axes: Float64[Tensor, "d d"]
    variance: Float64[Tensor, "d"]

    @classmethod
    def random(cls, dim: int, modes: int, seed: int) -> LinearMixture:
        """A is near the identity and b is small, so that y is a fair first guess of x0: paths whose prior puts y in
        the place of x0 (OUVE) then start close to their own marginal."""
        g = generator(seed, "exact/bridge", dim, modes)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        slope = torch.eye(dim, dtype=torch.float64) + 0.1 * normal(dim, dim) / math.sqrt(dim)
        offset = 0.1 * normal(dim) / math.sqrt(dim)
        axes = torch.linalg.qr(normal(dim, dim)).Q
        low, high = SPREAD
        variance = (low + (high - low) * torch.rand(dim, generator=g, dtype=torch.float64)) ** 2
        weights = 1.0 + 0.5 * torch.rand(modes, generator=g, dtype=torch.float64)
        weights = weights / weights.sum()
        if modes == 2:
            line = normal(dim)
            shifts = 0.5 * SEPARATION * torch.stack((line, -line)) / line.norm()
        else:  # at right angles, as far as there is room
            frame = [torch.linalg.qr(normal(dim, dim)).Q for _ in range(-(-modes // dim))]
            shifts = math.sqrt(0.5) * SEPARATION * torch.cat(frame)[:modes]
        return cls(slope, offset, shifts - weights @ shifts, weights, axes, variance)

    def to(self, device: torch.device) -> LinearMixture:
        """On this device."""
        return LinearMixture(*(part.to(device) for part in self))

    def mean(self, y: Float[Tensor, "b d"]) -> Float64[Tensor, "b d"]:
        """`E[x0 | y] = A y + b`."""
        return y.double() @ self.slope.mT + self.offset

    def sample(self, y: Float[Tensor, "b d"], g: torch.Generator) -> Float64[Tensor, "b d"]:
        """x0 ~ p(x0 | y)."""
        component = categorical(self.weights.expand(len(y), -1), g)
        noise = torch.randn(y.shape, generator=g, dtype=torch.float64)
        return self.mean(y) + self.shifts[component] + (noise * self.variance.sqrt()) @ self.axes.mT

    def whitened(self) -> Mixture:
        """The law of `diag(variance)^(-1/2) Q^T (x0 - A y - b)`, which does not depend on y."""
        return Mixture((self.shifts @ self.axes) / self.variance.sqrt(), 1.0, self.weights)

    def whiten(self, x0: Float[Tensor, "b d"], y: Float[Tensor, "b d"]) -> Float64[Tensor, "b d"]:
        """x0 given y as independent numbers of unit variance about their component's mean."""
        return ((x0.double() - self.mean(y)) @ self.axes) / self.variance.sqrt()
