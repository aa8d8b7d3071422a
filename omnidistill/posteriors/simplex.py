"""A point of the simplex per token: the posterior mean of a one-hot, for tokens on a Gaussian path."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnidistill.errors import unknown
from omnidistill.posteriors.base import like, towards
from omnidistill.posteriors.categoricals import IMPOSSIBLE, LEAST, CategoricalPosterior

if TYPE_CHECKING:
    from omnidistill.paths import Path


class SimplexPosterior(CategoricalPosterior):
    """`E[x0 | x_t]` where every token of x0 is a one-hot: `logits: Float[b n k]`, x0 and all losses `Float[b n k]` too.

    The mean of a one-hot is its distribution, so this is a categorical whose `sample` is its mean, as a point's is: a
    jump towards it is deterministic and carries a gradient. Losses are one number a class, which sum over the classes
    to those of a categorical; a mean over elements is 1/k of nats a token.
    """

    @classmethod
    def of(cls, probs: Tensor) -> SimplexPosterior:
        """From points of the simplex, Float[b n k]."""
        log = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
        return cls(torch.where(probs > 0, log, IMPOSSIBLE))

    @property
    def mean(self) -> Tensor:
        return self.probs

    def replace(self, parameters: Tensor) -> SimplexPosterior:
        return SimplexPosterior(parameters)

    def __getitem__(self, rows: slice) -> SimplexPosterior:
        return SimplexPosterior(self.logits[rows])

    def sample(self, g: torch.Generator | None = None, mask: Tensor | None = None) -> Tensor:
        return self.probs

    def log_prob(self, x0: Tensor) -> Tensor:
        return x0 * self.log_probs

    def divergence(
        self, target: CategoricalPosterior, kind: str = "nll", mask: Tensor | None = None
    ) -> Tensor:
        """Per class, p = target and q = self. `nll`: -p log q. `forward`: p log p/q. `backward`: q log q/p, log p no
        less than `LEAST`. `l2`: 1/2 (p - q)^2. `tv`: 1/2 |p - q|."""
        p, q = target, self
        kinds: dict[str, Callable[[], Tensor]] = {
            "nll": lambda: -p.probs * q.log_probs,
            "forward": lambda: p.probs * (p.log_probs - q.log_probs),
            "backward": lambda: q.probs * (q.log_probs - p.log_probs.clamp_min(LEAST)),
            "l2": lambda: 0.5 * (p.probs - q.probs).square(),
            "tv": lambda: 0.5 * (p.probs - q.probs).abs(),
        }
        if kind not in kinds:
            raise unknown("divergence between points of the simplex", kind, kinds)
        return kinds[kind]()

    def pull(self, direction: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        return towards(self.logits, like(weight, direction) * direction)

    def distance(self, x0: Tensor) -> Tensor:
        return (x0 - self.probs).abs()

    def blend(self, other: CategoricalPosterior, weight: Tensor | float) -> SimplexPosterior:
        return SimplexPosterior(super().blend(other, weight).logits)

    def guide(self, unconditional: CategoricalPosterior, scale: Tensor | float) -> SimplexPosterior:
        return SimplexPosterior(super().guide(unconditional, scale).logits)

    def after(self, x_r: Tensor, r: Tensor | float, path: Path) -> SimplexPosterior:
        return self
