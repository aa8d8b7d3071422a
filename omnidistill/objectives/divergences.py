"""f-divergences between teacher p and student q, as weights of the gap: `D_f(p || q) = E_q f(r)`, r = p / q.

The gradient of D_f with respect to a student is that of the reverse KL divergence with each sample weighted by

    `h(r) = r^2 f''(r)`,   grad D_f = -E_q h(r) (s_p - s_q) dx/dtheta

(Xu et al. 2025, f-distill, arXiv:2502.15681, theorem 1 and table 1). h is constant for the reverse KL divergence, which
seeks modes; it falls with 1/r to 0 for those that cover them, so that samples where the teacher has no mass count less.

Written in u = log r: `k(u) = h(e^u)` and its derivative, which the diffusion-expanded divergences need
(Wang et al. 2025, Uni-Instruct, arXiv:2505.20755).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.errors import unknown


class Weight(NamedTuple):
    """`k`: h as a function of log r; `slope`: its derivative dk/du; `f`: the generator f as a function of r."""

    k: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    f: Callable[[Tensor], Tensor]


def _bend(u: Tensor) -> Tensor:
    """Derivative of the sigmoid."""
    return torch.sigmoid(u) * torch.sigmoid(-u)


DIVERGENCES: dict[str, Weight] = {
    "reverse_kl": Weight(torch.ones_like, torch.zeros_like, lambda r: -r.log()),
    "forward_kl": Weight(torch.exp, torch.exp, lambda r: r * r.log()),
    "jensen_shannon": Weight(
        torch.sigmoid, _bend, lambda r: r * r.log() - (1.0 + r) * (0.5 * (1.0 + r)).log()
    ),
    "softened": Weight(
        lambda u: torch.sigmoid(-u), lambda u: -_bend(u), lambda r: (1.0 + r) * ((1.0 + r) / r).log()
    ),
    "jeffreys": Weight(lambda u: 1.0 + u.exp(), torch.exp, lambda r: (r - 1.0) * r.log()),
    "hellinger": Weight(
        lambda u: 0.5 * (0.5 * u).exp(), lambda u: 0.25 * (0.5 * u).exp(), lambda r: (1.0 - r.sqrt()) ** 2
    ),
    "neyman": Weight(lambda u: 2.0 * (-u).exp(), lambda u: -2.0 * (-u).exp(), lambda r: (1.0 - r) ** 2 / r),
    "pearson": Weight(
        lambda u: 2.0 * (2.0 * u).exp(), lambda u: 4.0 * (2.0 * u).exp(), lambda r: (r - 1.0) ** 2
    ),
}
"""The divergences of the paper's table 1, with Pearson's chi^2, and their h: `reverse_kl` KL(q || p) 1, `forward_kl`
KL(p || q) r, `jensen_shannon` (times two) r / (1 + r), `softened` reverse KL 1 / (1 + r), `jeffreys` 1 + r, `hellinger`
(squared) sqrt(r) / 2, `neyman` 2 / r, `pearson` 2 r^2."""


def divergence(name: str) -> Weight:
    """The weight of a divergence by its name."""
    if name not in DIVERGENCES:
        raise unknown("divergence to match by", name, DIVERGENCES)
    return DIVERGENCES[name]


def effective(weights: Tensor) -> Tensor:
    """Effective sample size of `weights: Float[b]` as a share of b, `(sum w)^2 / (b sum w^2)`: 1 if all are equal, 1/b
    if one outweighs the others."""
    return weights.sum() ** 2 / (len(weights) * weights.square().sum()).clamp_min(1e-300)
