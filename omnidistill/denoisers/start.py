"""Where a one-step student begins: at a noise level at which its teacher already decides between modes.

Asked about pure noise, a network answers with the mean of all data, and distribution matching has to pull samples of
all modes out of this one point. So score distillations ask it about the noise alone at a level `sigma_init` instead
(SiD: Zhou et al. 2024, arXiv:2404.04057, sec. 4 and table 6, `sigma_init = 2.5`), where it takes noise for noised data
and finds some mode in it. In general, at t above that level, u the time there,

    `D(x_t, t) = network(x_t sigma_u / sigma_t, u)`

which at t = 1, where the state is noise alone, is the papers' generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.errors import NotOffered, UserError
from omnidistill.paths import Path
from omnidistill.paths.base import per_sample


class Start:
    """
    Args:
        path: of the network.
        level: `sigma_init`, in units of `sigma / alpha`.
    """

    def __init__(self, path: Path, level: float) -> None:
        if "gaussian" not in path.offers or "anchored" in path.offers:
            raise NotOffered(
                f"sigma_init={level:g} is a level of noise alone, and {path} does not start from that; leave "
                "student.sigma_init=null"
            )
        low, high = (float(path.noise_level(torch.tensor(t))) for t in path.span)  # type: ignore[attr-defined]
        if not low < level <= high:
            raise UserError(
                f"sigma_init={level:g} is no noise level of {path}; it has those above {low:g} up to {high:g}"
            )
        self.path, self.level = path, float(level)
        self.at: Tensor = path.time_from_noise_level(level)  # type: ignore[attr-defined]

    def time(self, t: Tensor) -> Tensor:
        """u, the lesser of t and the time of the level."""
        return torch.minimum(t, self.at.to(t.device))

    def state(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x, u) that the network is asked about."""
        u = self.time(t)
        scale = self._sigma(u) / self._sigma(t).clamp_min(1e-300)
        scale = torch.where(u < t, scale, torch.ones_like(scale))
        return x_t * per_sample(scale, x_t, getattr(self.path, "time_axis", None)).to(x_t.dtype), u

    def _sigma(self, t: Tensor) -> Tensor:
        return self.path.coefficients(t).sigma  # type: ignore[attr-defined]
