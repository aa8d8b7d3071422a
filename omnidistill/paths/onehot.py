"""Tokens through the continuous relaxation: one-hot states on a Gaussian path."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.paths.gaussian import GaussianPath
from omnidistill.posteriors import SimplexPosterior


class OneHotPath(GaussianPath):
    """`x_t = (1 - t) onehot(x0) + t eps` in all k coordinates of every token: states and samples are `Float[b n k]`
    (Discrete Flow Maps 2026, arXiv:2604.09784; Categorical Flow Maps 2026, arXiv:2602.12233).

    Everything of a Gaussian path holds: a deterministic bridge exists, two jumps are one. The belief is a point of the
    simplex for each token, and at t = 0 a sample is one too, of which the likeliest token is read. On the jump paths
    (masked, uniform) the exact belief about x0 is a martingale, so a map of two times has nothing to learn there; here
    it has.

    Args:
        vocab: k tokens.
    """

    def __init__(self, vocab: int) -> None:
        if vocab < 2:
            raise UserError(f"a path over tokens needs at least 2 of them, got vocab={vocab}")
        super().__init__(
            "onehot",
            alpha=lambda t: 1.0 - t,
            sigma=lambda t: t,
            rates=lambda t: (-torch.ones_like(t), torch.zeros_like(t), torch.ones_like(t)),
            span=(1e-3, 1.0),
            inverse=lambda level: 1.0 / (1.0 + 1.0 / level),
        )
        self.vocab = vocab
        self.offers = self.offers | {"simplex"}

    def __repr__(self) -> str:
        return f"OneHotPath(vocab={self.vocab})"

    def certain(self, x0: Tensor) -> SimplexPosterior:  # type: ignore[override]
        return SimplexPosterior.of(x0)
