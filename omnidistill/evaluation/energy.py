"""Energy distance without bias: how far apart two distributions are, judged by distances between their samples."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.shapes import Counts, Resampled

CHUNK = 2**22  # distances held at once: 32 MiB


def energy_distance(x: Float[Tensor, "n ..."], y: Float[Tensor, "m ..."], *, paired: bool = False) -> float:
    """The energy distance of two sets of points, see `Energy`."""
    return Energy(y, paired=paired)(x)


class Energy:
    """`sign(E) sqrt(|E|)`, `E = 2 E|X - Y| - E|X - X'| - E|Y - Y'|`, to the points `real`.

    The distance of two distributions is zero if and only if they are equal; in one dimension it is
    `sqrt(2 int (F - G)^2)`. The means within a set run over pairs of different points (the U-statistic), so E has no
    bias: for two samples of one law it scatters about 0, slightly negative as often as not, and so does the root,
    which keeps the sign. With a point and itself as a pair (the V-statistic) two samples of n points of one law would
    be about `sqrt(2 E|X - X'| / n)` apart, which hides what a good student still lacks. Of a single point there is no
    pair, and its term is 0.

    Args:
        real: distances between these points are computed once.
        paired: row i of both sets shares what it was drawn under (a label, an anchor). Then the cross mean, too, runs
            over different rows, for x_i and y_i are nearer to one another than two independent points
            (Gretton et al. 2012, eq. 4).

    Raises:
        UserError: shapes that do not match, no points, NaN.

    Source: Székely & Rizzo 2013, "Energy statistics: a class of statistics based on distances".
    """

    def __init__(self, real: Float[Tensor, "m ..."], *, paired: bool = False) -> None:
        self.given, self.paired = real.detach(), paired
        self._real = self.given.flatten(1).double()
        self._known: list[
            tuple[Tensor, Tensor]
        ] = []  # weights, and the mean within the real points under them

    def matches(self, real: Tensor, paired: bool = False) -> bool:
        """Whether this is the distance to those points."""
        return self.paired == paired and torch.equal(self.given, real)

    def __call__(self, x: Float[Tensor, "n ..."]) -> float:
        x = checked(x, self._real)
        ones = (torch.ones(1, len(points), dtype=torch.float64) for points in (x, self._real))
        return float(self._under(x, *ones))

    def resampled(self, x: Float[Tensor, "n ..."], counts: Counts) -> Resampled:
        """The distance on resamples of x; NaN where one holds a single point over and over.

        A point drawn twice is no pair with itself, so the resamples have no bias either. Real points are drawn anew as
        well, by the same counts where there are as many of them as samples: the noise of both sets is in the interval.
        """
        x = checked(x, self._real)
        weights = counts.double()
        return self._under(x, weights, weights if len(x) == len(self._real) else _ones(weights, self._real))

    def _under(
        self, x: Float[Tensor, "n ..."], w: Float64[Tensor, "r n"], v: Float64[Tensor, "r m"]
    ) -> Resampled:
        """With weights w of the samples and v of the real points."""
        real = self._real
        cross = _total(x, real, w, v)
        pairs = w.sum(1) * v.sum(1)
        if self.paired and len(x) == len(real) > 1:
            same = w * v
            cross = cross - same @ (x - real).norm(dim=1)
            pairs = pairs - same.sum(1)
        square = 2.0 * cross / pairs - mean_of_pairs(x, w) - self._within(v)
        return square.sign() * square.abs().sqrt()

    def _within(self, v: Tensor) -> Tensor:
        for weights, value in self._known:
            if torch.equal(weights, v):
                return value
        value = mean_of_pairs(self._real, v)
        self._known = [*self._known[-1:], (v, value)]  # of the whole set, and of its resamples
        return value


def mean_of_pairs(x: Float[Tensor, "n ..."], weights: Float64[Tensor, "r n"]) -> Resampled:
    """The mean of `|x_i - x_j|` over pairs i != j with weights w_i w_j."""
    return off_diagonal(_total(x, x, weights, weights, zero=True), weights, len(x))


def off_diagonal(total: Tensor, weights: Tensor, count: int) -> Tensor:
    """A sum over all pairs of `count` points, the diagonal being 0, as a mean over pairs of different ones; NaN where
    there is none, 0 for a single point."""
    pairs = weights.sum(1).square() - weights.square().sum(1)
    return torch.zeros_like(total) if count == 1 else torch.where(pairs > 0, total / pairs, torch.nan)


def checked(x: Float[Tensor, "n ..."], y: Float[Tensor, "m ..."]) -> Float64[Tensor, "n d"]:
    """x as rows of numbers, as many each as y has."""
    x = x.detach().flatten(1).double()
    if x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise UserError(
            f"cannot compare samples of shape {tuple(x.shape)} and {tuple(y.shape)}; give [n d] and [m d]"
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise UserError("cannot compare samples with NaN or infinite values")
    return x


def _ones(weights: Tensor, points: Tensor) -> Tensor:
    return weights.new_ones(len(weights), len(points))


def _total(
    x: Float64[Tensor, "n d"],
    y: Float64[Tensor, "m d"],
    w: Float64[Tensor, "r n"],
    v: Float64[Tensor, "r m"],
    zero: bool = False,
) -> Resampled:
    """`sum_ij w_i |x_i - y_j| v_j`, some rows at a time."""
    centre = y.mean(0)  # changes no distance, and keeps the matrix product accurate far from the origin
    x, y = x - centre, y - centre
    total = w.new_zeros(len(w))
    start = 0
    # A float64 matrix product is off by at most 1e-8 |x| where two points coincide, and much faster than differences.
    for part in x.split(max(1, CHUNK // len(y))):
        distances = torch.cdist(part, y)
        if zero:
            distances.diagonal(start).zero_()
        total = total + ((w[:, start : start + len(part)] @ distances) * v).sum(1)
        start += len(part)
    return total
