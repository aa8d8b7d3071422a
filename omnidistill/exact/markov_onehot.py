"""The exact posterior of a Markov chain whose tokens are one-hots under Gaussian noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.exact.chain import MarkovChain, marginals
from omnidistill.paths import OneHotPath, Path
from omnidistill.paths.base import as_time, per_sample
from omnidistill.posteriors import SimplexPosterior
from omnidistill.shapes import TensorTime, Time


class OneHotChainDenoiser(Denoiser):
    """`p(x0_i | x_t)` of every token, exact: forward-backward with Gaussian emissions.

    A state gives token a the evidence `N(x_t,i; alpha e_a, sigma^2 I)`. Since |e_a|^2 is the same for all a, that is
    `exp(alpha x_t,i,a / sigma^2)` up to a factor per position. At t = 0 the token is the largest coordinate; at t = 1
    nothing is evidence. Padding is none either.
    """

    initial: Tensor
    transition: Tensor
    path: OneHotPath

    def __init__(self, chain: MarkovChain, path: Path) -> None:
        super().__init__(path)
        if "simplex" not in path.offers or getattr(path, "vocab", None) != chain.vocab:
            raise UserError(f"a chain of {chain.vocab} one-hots needs OneHotPath({chain.vocab}), got {path}")
        self.register_buffer("initial", chain.initial)
        self.register_buffer("transition", chain.transition)

    def evidence(
        self, x_t: Float[Tensor, "b n k"], t: Time, context: Context = Context()
    ) -> Float64[Tensor, "b n k"]:
        """`q(x_t | x0 = a)` up to a factor per position."""
        x = x_t.double()
        alpha, _, sigma = self.path.coefficients(as_time(t, x_t))
        a, n = per_sample(alpha, x), per_sample(sigma, x)
        still = n == 0
        noisy = (a * x / torch.where(still, 1.0, n) ** 2).softmax(-1)
        seen = F.one_hot(x.argmax(-1), x.shape[-1]).double()
        likelihood = torch.where(still, seen, noisy)
        return likelihood if context.mask is None else torch.where(context.mask, likelihood, 1.0)

    def belief(
        self, x_t: Float[Tensor, "b n k"], t: Time, context: Context, target_time: TensorTime | None
    ) -> SimplexPosterior:
        found = marginals(self.initial, self.transition, self.evidence(x_t, t, context))
        # Never the logarithm of 0, whose gradient is no number.
        return SimplexPosterior(found.clamp_min(torch.finfo(found.dtype).tiny).log().to(x_t.dtype))
