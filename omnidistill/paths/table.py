"""A Gaussian path whose levels are a table: one for each step of a chain of finite length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.paths.base import Time
from omnidistill.paths.gaussian import GaussianPath
from omnidistill.paths.symmetry import Symmetry


class TablePath(GaussianPath):
    """Variance preserving: `alpha_k^2` given for k = 0 ... N - 1, `sigma^2 = 1 - alpha^2` (Ho et al. 2020, eq. 4).

    Place k of the table is the time `t = (k + 1) / N`, so that t = 1 is the last one and t = 0 is clean data, which no
    table holds. Between places alpha is the cubic of Hermite's form with the mean of the neighbouring slopes,
    bounded so that it falls everywhere (Fritsch & Carlson 1980); it and its rate are continuous. The last level may be
    0 (zero terminal signal-to-noise ratio: Lin et al. 2023, alg. 1), where `v`, `x0` and `edm` can be asked.

    Args:
        alphas_cumprod: Float[N], alpha^2, falling, above 0 but for the last, below 1.
        symmetry: as for `GaussianPath`.
    """

    def __init__(self, alphas_cumprod: Tensor | Sequence[float], symmetry: Symmetry | None = None) -> None:
        levels = torch.as_tensor(alphas_cumprod, dtype=torch.float64).detach().cpu()
        if levels.ndim != 1 or len(levels) < 2:
            raise UserError(
                f"a table of alphas_cumprod is one row of levels, got shape {tuple(levels.shape)}"
            )
        falls = bool((levels[1:] < levels[:-1]).all())
        if not (falls and float(levels[0]) < 1.0 and float(levels[-1]) >= 0.0):  # NaN neither
            raise UserError(
                f"alphas_cumprod falls from below 1 to 0 or above, got {float(levels[0]):g} to {float(levels[-1]):g}"
                f"{'' if falls else ', not falling everywhere'}"
            )
        self.entries = len(levels)
        self._alphas = torch.cat((torch.ones(1, dtype=torch.float64), levels.sqrt()))
        self._slopes = _slopes(self._alphas)
        super().__init__(
            f"table of {self.entries}",
            alpha=lambda t: self._cubic(t)[0],
            sigma=lambda t: _sigma(self._cubic(t)[0]),
            rates=self._moving,
            span=(1.0 / self.entries, 1.0),
            symmetry=symmetry,
        )

    def index(self, t: Time) -> Tensor:
        """The place in the table, `N t - 1`: the timestep as diffusers counts it. Fractions lie between places."""
        return self.entries * torch.as_tensor(t, dtype=torch.float64) - 1.0

    def time(self, index: Tensor | float) -> Tensor:
        """The time of a place, Float64, inverse of `index`."""
        return (torch.as_tensor(index, dtype=torch.float64) + 1.0) / self.entries

    def _moving(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, rate = self._cubic(t)
        return rate, torch.zeros_like(t), -alpha * rate / _sigma(alpha)

    def _cubic(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and its rate, Float64[...]."""
        place = self.entries * t
        below = place.detach().floor().clamp(0, self.entries - 1)
        u, k = place - below, below.long()
        values, slopes = self._alphas.to(t.device), self._slopes.to(t.device)
        a, b, p, q = values[k], values[k + 1], slopes[k], slopes[k + 1]
        fall = b - a
        # a + u p + u^2 (3 fall - 2 p - q) + u^3 (p + q - 2 fall)
        second, third = 3.0 * fall - 2.0 * p - q, p + q - 2.0 * fall
        alpha = a + u * (p + u * (second + u * third))
        rate = self.entries * (p + u * (2.0 * second + 3.0 * u * third))
        # At the last place itself, exactly what the table says.
        return torch.where(u == 1.0, b, alpha), rate


def _sigma(alpha: Tensor) -> Tensor:
    return torch.sqrt((1.0 - alpha) * (1.0 + alpha))


def _slopes(values: Tensor) -> Tensor:
    """Float64[n]: slopes a place at each of n falling values, no steeper than thrice the flatter neighbour's."""
    falls = values[1:] - values[:-1]
    inner = 0.5 * (falls[1:] + falls[:-1])
    first, last = 1.5 * falls[0] - 0.5 * falls[1], 1.5 * falls[-1] - 0.5 * falls[-2]
    slopes = torch.cat((first[None], inner, last[None]))
    steepest = 3.0 * torch.maximum(
        torch.cat((falls[:1], falls)), torch.cat((falls, falls[-1:]))
    )  # negative numbers: the nearer to 0
    return torch.maximum(slopes, steepest).clamp_max(0.0)
