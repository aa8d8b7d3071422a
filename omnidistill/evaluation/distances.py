"""Distances between two samples that need no learned features."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.errors import UserError

CHUNK = 2**22  # distances held at once: 32 MiB


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = x.detach().flatten(1).double(), y.detach().flatten(1).double()
    if x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise UserError(
            f"cannot compare samples of shape {tuple(x.shape)} and {tuple(y.shape)}; give [n d] and [m d]"
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise UserError("cannot compare samples with NaN or infinite values")
    return x, y


def _mean_distance(x: Tensor, y: Tensor) -> Tensor:
    # A float64 matrix product is off by at most 1e-8 |x| where two points coincide, and much faster than differences.
    parts = (torch.cdist(part, y).sum() for part in x.split(max(1, CHUNK // len(y))))
    return torch.stack(list(parts)).sum() / (len(x) * len(y))


def energy_distance(x: Tensor, y: Tensor) -> float:
    """`sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|)` between the points `x: Float[n ...]` and `y: Float[m ...]`.

    Zero if and only if the two distributions are equal. The means run over all pairs, a point with itself included
    (the V-statistic), so the root is real; for n draws of the same law its square is about `2 E|X - X'| / n`, not 0.
    In one dimension it is `sqrt(2 int (F - G)^2)`, as `scipy.stats.energy_distance` has it.

    Raises:
        UserError: shapes that do not match, no points, NaN.

    Source: Székely & Rizzo 2013, "Energy statistics: a class of statistics based on distances".
    """
    x, y = _pair(x, y)
    centre = y.mean(0)  # changes no distance, and keeps the matrix product accurate far from the origin
    x, y = x - centre, y - centre
    square = 2.0 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)
    return float(square.clamp_min(0.0).sqrt())


def sliced_wasserstein(x: Tensor, y: Tensor, g: torch.Generator, projections: int = 128) -> float:
    """`sqrt(mean_theta W2(theta.X, theta.Y)^2)` with `projections` directions theta drawn uniformly from the sphere.

    W2 in one dimension is exact, `int_0^1 (F^-1(q) - G^-1(q))^2 dq`, also for n != m. Units are those of the data.
    For two points it is `|x - y| / sqrt(d)` in expectation of the square.

    Args:
        x, y: Float[n ...] and Float[m ...].
        g: draws the directions; the same generator state gives the same directions.

    Raises:
        UserError: shapes that do not match, no points, NaN.

    Source: Bonneel, Rabin, Peyré & Pfister 2015, "Sliced and Radon Wasserstein barycenters of measures".
    """
    x, y = _pair(x, y)
    theta = torch.randn(x.shape[1], projections, generator=g, device=g.device, dtype=torch.float64).to(
        x.device
    )
    theta = theta / theta.norm(dim=0)
    first, second = (x @ theta).sort(dim=0).values, (y @ theta).sort(dim=0).values
    if len(x) == len(y):
        return float((first - second).square().mean().sqrt())
    # Both quantile functions are constant between neighbouring points of the union of i/n and j/m.
    n, m = len(x), len(y)
    ends = (
        torch.cat((torch.arange(1, n + 1).double() / n, torch.arange(1, m + 1).double() / m))
        .sort()
        .values.to(x.device)
    )
    width = torch.diff(ends, prepend=ends.new_zeros(1))
    middle = ends - 0.5 * width
    i, j = (middle * n).long().clamp_(max=n - 1), (middle * m).long().clamp_(max=m - 1)
    return float((width @ (first[i] - second[j]).square()).mean().sqrt())
