"""A network trained on one Gaussian path, asked on another one, without training.

Two paths without an anchor differ by a clock and a scale: at equal noise levels `sigma/alpha` a state of one is that of
the other times the ratio of their signals, and what is believed about x0 is the same. So a flow network is asked on
TrigFlow at

    tan(pi t / 2) = u / (1 - u),    x_u = x_t sqrt(u^2 + (1 - u)^2)

(Chen et al. 2025, SANA-Sprint, arXiv:2503.09641: the training-free conversion), and any network on any path likewise.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.paths import GaussianPath, Path, named
from omnidistill.paths.base import per_sample


class Elsewhere:
    """From `asked`, the path that a sampler walks, to `home`, that on which a network was trained."""

    def __init__(self, asked: Path, home: str) -> None:
        self.asked, self.home = asked, _path(home)
        for path in (asked, self.home):
            fits = "gaussian" in path.offers and not {"anchored", "simplex"} & path.offers
            if not fits or path.time_axis is not None:
                raise UserError(
                    f"trained_on={self.home.name}: a network is asked on another path where both are Gaussian, without "
                    f"anchors, with one time a sample; {path} is not"
                )

    def time(self, t: Tensor) -> Tensor:
        """The time of the same noise level at home."""
        u = self.home.time_from_noise_level(self.asked.noise_level(t))  # type: ignore[attr-defined]
        return torch.where(t == 0, 0.0, u)

    def state(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x, u) at home for a state at t: x in the scale of the path there."""
        u = self.time(t)
        (a, _, n), (a_u, _, n_u) = self.asked.coefficients(t), self.home.coefficients(u)  # type: ignore[attr-defined]
        # Signal and noise have one ratio; of their root of squares neither end is zero.
        return x_t * per_sample(torch.hypot(a_u, n_u) / torch.hypot(a, n), x_t), u


def _path(given: str) -> GaussianPath:
    """A path by the name of its constructor, if that needs nothing more: it is saved with a student."""
    known = {
        name: made
        for name, made in vars(named).items()
        if inspect.isfunction(made)
        and made.__module__ == named.__name__
        and not name.startswith("_")
        and all(p.default is not p.empty for p in inspect.signature(made).parameters.values())
    }
    if given not in known:
        raise unknown("path of trained_on", given, known)
    made: GaussianPath = known[given]()
    return made
