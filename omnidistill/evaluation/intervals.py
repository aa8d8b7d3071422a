"""How sure a figure is: intervals by the bootstrap over samples.

Teacher and student at all step counts share conditions and noise, so they share their resamples, too: what is common to
two figures does not blur their difference.
"""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from omnidistill.random import generator
from omnidistill.shapes import Counts, Resampled

LEVEL = 0.95
RESAMPLES = 200
ENOUGH = 100  # resamples for percentiles; from fewer comes a standard deviation
WHOLE = 0.9  # share of resamples on which a figure must exist

Interval = tuple[float, float]


def draw(samples: int, seed: int, resamples: int = RESAMPLES) -> Int[Tensor, "{resamples} {samples}"]:
    """How often each sample is in each resample of the same size, drawn with replacement."""
    g = generator(seed, "evaluation", "resamples")
    rows = torch.randint(samples, (resamples, samples), generator=g)
    counts = torch.zeros(resamples, samples, dtype=torch.long)
    return counts.scatter_add_(1, rows, torch.ones_like(rows))


def mean(
    values: Shaped[Tensor, "n"], counts: Counts, weights: Shaped[Tensor, "n"] | None = None
) -> Resampled:
    """The mean of values, one a sample, on each of the resamples.

    Args:
        weights: of the samples in the mean; None: all alike.
    """
    counts = counts.double()
    if weights is not None:
        counts = counts * weights.double()
    return counts @ values.double() / counts.sum(1)


def interval(value: float, resampled: Tensor | None) -> Interval | None:
    """Where the figure `value` lies with a probability of `LEVEL`; None where the resamples cannot say.

    The percentiles of the resamples, moved so that their mean is the value itself: a metric that reads higher on fewer
    samples reads higher still on resamples, whose points repeat, and would be out of its own interval. Of fewer than
    `ENOUGH` resamples as many standard deviations as Student's t has.
    """
    if resampled is None or not len(resampled):
        return None
    there = resampled[resampled.isfinite()]
    if len(there) < max(2, WHOLE * len(resampled)):
        return None
    if len(there) < ENOUGH:
        from scipy.stats import t

        width = float(there.std()) * float(t.ppf((1 + LEVEL) / 2, len(there) - 1))
        return value - width, value + width
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = (torch.quantile(there.double(), ends) - there.double().mean() + value).tolist()
    return min(low, value), max(high, value)


def width(interval: Interval) -> float:
    """Half of it."""
    return (interval[1] - interval[0]) / 2
