"""Distances between two samples of vectors, in whatever feature space the caller chose."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.evaluation.energy import checked
from omnidistill.shapes import Counts, Resampled

NEIGHBOURS = 3  # k of Kynkäänniemi et al. 2019, section 3
MANIFOLD_POINTS = 2000  # precision and recall cost the square of this


def sliced_wasserstein(
    x: Float[Tensor, "n ..."], y: Float[Tensor, "m ..."], g: torch.Generator, projections: int = 128
) -> float:
    """`sqrt(mean_theta W2(theta.X, theta.Y)^2)` with `projections` directions theta drawn uniformly from the sphere.

    W2 in one dimension is exact, `int_0^1 (F^-1(q) - G^-1(q))^2 dq`, also for n != m. Units are those of the data.
    For two points it is `|x - y| / sqrt(d)` in expectation of the square.

    Args:
        g: draws the directions; the same generator state gives the same directions.

    Raises:
        UserError: shapes that do not match, no points, NaN.

    Source: Bonneel, Rabin, Peyré & Pfister 2015, "Sliced and Radon Wasserstein barycenters of measures".
    """
    y = y.detach().flatten(1).double()
    x = checked(x, y)
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


def frechet_distance(a: Float[Tensor, "n ..."], b: Float[Tensor, "m ..."]) -> float:
    """Squared Fréchet distance of the Gaussians fitted to the points a and b, at least two each.

    |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_b^{1/2} S_a S_b^{1/2})^{1/2})   (Dowson and Landau 1982;
    Heusel et al. 2017, arXiv:1706.08500, eq. 6). The symmetrised product has a real spectrum, so no matrix root of an
    unsymmetric product is taken; float64 throughout. 0 for equal moments; it reads too high by about d/n when samples
    are few, by nearly as much for two models at one n: that cancels in their difference, and so in the gap closed.

    Raises:
        UserError: a feature is NaN or infinite, or there are fewer than two points.
    """
    a, b = _points(a), _points(b)
    weights = torch.ones(len(a), dtype=torch.float64, device=a.device)
    return _frechet(_moments(a, weights), *_rooted(_moments(b, weights.new_ones(len(b)))))


def resampled_frechet(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    counts: Counts,
    owner: Int[Tensor, "n"] | None = None,
    b_owner: Int[Tensor, "m"] | None = None,
) -> Resampled:
    """`frechet_distance` on resamples of the samples behind a, from weighted moments.

    Args:
        owner: the sample that each row of a belongs to; None: row i to sample i.
        b_owner: the same for b, where its rows go with the samples (what each was made from); None: b stays as it is.
    """
    a, b = _points(a), _points(b)
    fixed = _rooted(_moments(b, b.new_ones(len(b)))) if b_owner is None else None
    found = []
    for row in counts.double():
        made = _moments(a, row if owner is None else row[owner])
        found.append(_frechet(made, *(fixed or _rooted(_moments(b, row[b_owner])))))
    return torch.tensor(found, dtype=torch.float64)


def _moments(
    points: Float64[Tensor, "n d"], weights: Float64[Tensor, "n"]
) -> tuple[Float64[Tensor, "d"], Float64[Tensor, "d d"]]:
    """Mean and unbiased covariance under weights, which count how often a row is there."""
    total = weights.sum()
    mean = weights @ points / total
    centred = (points - mean) * weights.sqrt().unsqueeze(1)
    return mean, centred.T @ centred / (total - 1.0).clamp_min(1.0)


def _rooted(moments: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    mean, covariance = moments
    values, vectors = torch.linalg.eigh(covariance)
    return mean, covariance, (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _frechet(made: tuple[Tensor, Tensor], mean: Tensor, covariance: Tensor, root: Tensor) -> float:
    product = root @ made[1] @ root
    # Rounding leaves eigenvalues a hair below zero where a covariance is singular.
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    squared = (made[0] - mean).square().sum() + made[1].trace() + covariance.trace() - 2 * overlap
    return max(float(squared), 0.0)


def precision_recall(
    fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k: int = NEIGHBOURS, points: int = MANIFOLD_POINTS
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, eqs. 1 and 2), each in [0, 1].

    A set's manifold is the union of balls around its points, each reaching its k-th nearest other point. Precision is
    the share of `fake` inside the manifold of `real`, recall the share of real inside that of
    fake. Both sets are thinned to the same size, at most `points` evenly spaced rows: the radii depend on the size.

    Raises:
        UserError: a feature is NaN or infinite, or a set has no more than k points.
    """
    count = min(len(fake), len(real), points)
    if count <= k:
        raise UserError(
            f"precision and recall need more than k={k} points a set, got {len(fake)} and {len(real)}"
        )
    fake, real = _thinned(_points(fake), count), _thinned(_points(real), count)
    between = torch.cdist(fake, real)
    precision = (between <= _radii(real, k)).any(dim=1).double().mean()
    recall = (between <= _radii(fake, k).unsqueeze(1)).any(dim=0).double().mean()
    return float(precision), float(recall)


def _points(points: Tensor) -> Tensor:
    if len(points) < 2:
        raise UserError(f"a distribution needs at least 2 points, got {len(points)}")
    if not torch.isfinite(points).all():
        bad = int((~torch.isfinite(points)).any(dim=1).sum())
        raise UserError(f"{bad} of {len(points)} feature vectors are NaN or infinite")
    return points.double()


def _thinned(points: Tensor, count: int) -> Tensor:
    # Evenly spaced rather than the first ones: samples often come sorted by class.
    return points[torch.linspace(0, len(points) - 1, count, dtype=torch.float64).round().long()]


def _radii(points: Tensor, k: int) -> Tensor:
    # The nearest of all is the point itself, hence k + 1.
    return torch.cdist(points, points).kthvalue(k + 1, dim=1).values
