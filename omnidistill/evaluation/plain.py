"""How far samples are from real ones, by figures that need no features that anybody has trained.

Of states of real numbers: `energy`, the energy distance; `sliced`, the Wasserstein-1 distance along random directions;
`spectrum`, decibels between the mean power spectra of the last two axes. Of tokens: `bigram` and `unigram`, the total
variation distance of the frequencies of pairs of neighbours and of single tokens, 0 (equal) to 1 (disjoint).
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.evaluation.energy import Energy
from omnidistill.random import generator

DIRECTIONS, GRID = 64, 128


class Plain:
    """Figures of samples against real ones.

    Args:
        given: the real states by which it is known again (`of`).
        real: these as they are compared, Float[m ...] or Long[m l].
        mask: which of their elements are real.
    """

    def __init__(self, given: Tensor, real: Tensor, mask: Tensor | None = None) -> None:
        self.given, self.real, self.mask = given, real, mask
        self.primary = "energy" if real.is_floating_point() else "bigram"
        self._energy = Energy(_filled(real, mask)) if real.is_floating_point() else None

    def of(self, given: Tensor) -> bool:
        """Whether it compares with these."""
        return self.given is given or (self.given.shape == given.shape and torch.equal(self.given, given))

    def __call__(self, x0: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """Of `x0: Float[n ...]` or `Long[n l]`."""
        if self._energy is None:
            return {
                f"{name}gram": _variation(x0, mask, self.real, self.mask, n)
                for name, n in (("bi", 2), ("uni", 1))
            }
        x, real = _filled(x0, mask), _filled(self.real, self.mask)
        found = {"energy": self._energy(x), "sliced": sliced(x, real)}
        if x.ndim >= 3 and min(x.shape[-2:]) >= 4:
            found["spectrum"] = spectrum(x, real)
        return found

    def resampled(self, x0: Tensor, counts: Tensor, mask: Tensor | None = None) -> Tensor:
        """Float64[r]: the primary figure on resamples of x0, `counts: Long[r n]`."""
        if self._energy is not None:
            return self._energy.resampled(_filled(x0, mask), counts)
        size = 1 + int(max(x0.max(), self.real.max()))
        ours, theirs = (_frequencies(x, m, size, 2) for x, m in ((x0, mask), (self.real, self.mask)))
        names, which = torch.cat((ours[0], theirs[0])).unique(return_inverse=True)
        mine, others = which.split([len(ours[0]), len(theirs[0])])
        table = torch.zeros(len(x0), len(names), dtype=torch.float64)
        table.index_put_((ours[1], mine), torch.ones(len(mine), dtype=torch.float64), accumulate=True)
        real = torch.bincount(others, minlength=len(names)).double()
        drawn = counts.double() @ table
        return 0.5 * (drawn / drawn.sum(1, keepdim=True) - real / real.sum()).abs().sum(1)


def sliced(x: Tensor, real: Tensor) -> float:
    """The mean over random unit directions of the Wasserstein-1 distance of projections, an integral over quantiles
    (Bonneel et al. 2015). x: Float[n ...], real: Float[m ...]."""
    x, real = x.flatten(1).double(), real.flatten(1).double()
    directions = torch.randn(
        x.shape[1], DIRECTIONS, generator=generator("sliced", x.shape[1]), dtype=torch.float64
    )
    directions = directions / directions.norm(dim=0)
    places = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    ours, theirs = ((points @ directions).quantile(places, dim=0) for points in (x, real))
    return float((ours - theirs).abs().mean())


def spectrum(x: Tensor, real: Tensor) -> float:
    """Root mean square, over frequencies of the last two axes, of the decibels between mean power spectra; the first
    frequency, which is the mean, is left out."""

    def decibels(points: Tensor) -> Tensor:
        power = torch.fft.rfft2(points.double()).abs().square().flatten(0, -3).mean(0)
        return 10.0 * power.clamp_min(1e-12).log10().flatten()[1:]

    return float((decibels(x) - decibels(real)).square().mean().sqrt())


def _variation(x: Tensor, mask: Tensor | None, real: Tensor, other: Tensor | None, n: int) -> float:
    size = 1 + int(max(x.max(), real.max()))
    ours, theirs = (_frequencies(points, known, size, n)[0] for points, known in ((x, mask), (real, other)))
    names, which = torch.cat((ours, theirs)).unique(return_inverse=True)
    parts = which.split([len(ours), len(theirs)])
    shares = [torch.bincount(part, minlength=len(names)).double() / max(len(part), 1) for part in parts]
    return float(0.5 * (shares[0] - shares[1]).abs().sum())


def _frequencies(x: Tensor, mask: Tensor | None, size: int, n: int) -> tuple[Tensor, Tensor]:
    """The numbers of all n-grams of real tokens, Long[k], and which sample each is of."""
    x = x.cpu().flatten(1)
    known = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.flatten(1).expand_as(x)
    length = x.shape[1] - n + 1
    number, inside = torch.zeros_like(x[:, :length]), torch.ones_like(known[:, :length])
    for k in range(n):
        number, inside = number * size + x[:, k : k + length], inside & known[:, k : k + length]
    rows = torch.arange(len(x)).unsqueeze(1).expand_as(number)
    return number[inside], rows[inside]


def _filled(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask
