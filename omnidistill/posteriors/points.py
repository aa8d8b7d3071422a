"""A point: the posterior mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from omnidistill.errors import unknown
from omnidistill.posteriors.base import like, towards
from omnidistill.shapes import Mask, Real, Time, Weight

if TYPE_CHECKING:
    from omnidistill.paths import Path


def _pseudo_huber(error: Real, mask: Mask | None = None) -> Real:
    """`sqrt(|e|^2 + c^2) - c` over the sample as a vector, c = 0.00054 sqrt(dim) (Song & Dhariwal 2023).

    Spread evenly over the real elements, so that their mean over a sample is the vector's value over dim; dim
    counts real elements only.
    """
    real = torch.ones_like(error) if mask is None else mask.expand_as(error).to(error.dtype)
    dim = real.flatten(1).sum(1).clamp_min(1.0)
    c = 0.00054 * dim.sqrt()
    norm = torch.sqrt((error * real).flatten(1).square().sum(1) + c * c) - c
    return like(norm / dim, error) * real


@dataclass(frozen=True)
class PointPosterior:
    """The posterior mean `E[x0 | x_t]`."""

    mean: Real

    @property
    def parameters(self) -> Real:
        return self.mean

    def replace(self, parameters: Real) -> PointPosterior:
        return PointPosterior(parameters)

    def __getitem__(self, rows: slice) -> PointPosterior:
        return PointPosterior(self.mean[rows])

    def sample(self, g: torch.Generator | None = None, mask: Mask | None = None) -> Real:
        return self.mean

    def log_prob(self, x0: Real) -> Real:
        return -0.5 * (x0 - self.mean).square()

    def divergence(self, target: PointPosterior, kind: str = "nll", mask: Mask | None = None) -> Real:
        """`nll`/`l2`: 1/2 (a - b)^2. `l1`: |a - b|. `huber`: pseudo-Huber of the sample as a vector."""
        kinds: dict[str, Callable[[Real], Real]] = {
            "nll": lambda e: 0.5 * e * e,
            "l2": lambda e: 0.5 * e * e,
            "l1": torch.abs,
            "huber": lambda e: _pseudo_huber(e, mask),
        }
        if kind not in kinds:
            raise unknown("divergence between points", kind, kinds)
        return kinds[kind](self.mean - target.mean)

    def pull(self, direction: Real, weight: Weight = 1.0) -> Real:
        return towards(self.mean, like(weight, direction) * direction)

    def gap(self, real: PointPosterior, kind: str = "forward") -> Real:
        """`D_fake - D_real`: the gradient of 1/2 |D_fake - D_real|^2 with respect to D_fake, for every kind."""
        return self.mean - real.mean

    def distance(self, x0: Real) -> Real:
        return (x0 - self.mean).abs()

    def blend(self, other: PointPosterior, weight: Weight) -> PointPosterior:
        return PointPosterior(torch.lerp(other.mean, self.mean, like(weight, self.mean).expand_as(self.mean)))

    def guide(self, unconditional: PointPosterior, scale: Weight) -> PointPosterior:
        return PointPosterior(unconditional.mean + like(scale, self.mean) * (self.mean - unconditional.mean))

    def after(self, x_r: Real, r: Time, path: Path) -> PointPosterior:
        return self
