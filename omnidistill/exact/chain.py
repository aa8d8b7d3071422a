"""A stationary Markov chain over tokens: drawing it, drawing from it, and its exact posteriors (forward-backward)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.random import categorical, generator
from omnidistill.shapes import Tokens

Square = Float64[Tensor, "k k"]


def stationary(transition: Square) -> Float64[Tensor, "k"]:
    """Pi with `pi P = pi` and `sum pi = 1`, by the linear system with one equation replaced.

    Args:
        transition: P; rows sum to 1, every entry > 0 (so that pi is unique).
    """
    k = len(transition)
    system = transition.double().T - torch.eye(k, dtype=torch.float64)
    system[-1] = 1.0
    right = torch.zeros(k, dtype=torch.float64)
    right[-1] = 1.0
    return torch.linalg.solve(system, right)


@dataclass(frozen=True)
class MarkovChain:
    """`p(x) = pi(x_1) prod_i P(x_{i+1} | x_i)` with pi the stationary distribution of P.

    Attributes:
        transition: P; every entry > 0, rows sum to 1.
        initial: pi.
    """

    transition: Square
    initial: Float64[Tensor, "k"]

    @classmethod
    def of(cls, transition: Tensor) -> MarkovChain:
        """The chain of this matrix. `UserError` unless it is square, strictly positive and its rows sum to 1."""
        p = transition.double()
        if p.ndim != 2 or p.shape[0] != p.shape[1] or len(p) < 2:
            raise UserError(f"a transition matrix is square with at least 2 states, got {tuple(p.shape)}")
        if not bool((p > 0).all()) or float((p.sum(1) - 1.0).abs().max()) > 1e-9:
            raise UserError("a transition matrix needs entries above 0 and rows that sum to 1")
        return cls(p, stationary(p))

    @classmethod
    def random(cls, vocab: int, seed: int, peak: float = 3.0, floor: float = 0.12) -> MarkovChain:
        """`P = (1 - floor) softmax(peak z) + floor / k`, z standard normal from the seed.

        The softmax makes neighbours depend on one another strongly (rows have an entropy of about 60 % of log k);
        the floor keeps every sequence possible, so that the likelihood of a bad generator's samples is finite.
        """
        z = torch.randn(vocab, vocab, generator=generator("markov chain", vocab, seed), dtype=torch.float64)
        return cls.of((1.0 - floor) * (peak * z).softmax(1) + floor / vocab)

    @property
    def vocab(self) -> int:
        """The number of tokens, k."""
        return len(self.initial)

    @property
    def bigrams(self) -> Square:
        """Probability of two neighbouring tokens, `pi_a P_ab`."""
        return self.initial[:, None] * self.transition

    @property
    def entropy_rate(self) -> float:
        """`-sum pi_a P_ab log P_ab`, nats per token of a long sequence."""
        return -float((self.bigrams * self.transition.log()).sum())

    def sample(self, count: int, length: int, g: torch.Generator) -> Int[Tensor, "{count} {length}"]:
        """Sequences from the stationary start."""
        tokens = torch.empty(count, length, dtype=torch.long)
        tokens[:, 0] = categorical(self.initial.expand(count, -1), g)
        for i in range(1, length):
            tokens[:, i] = categorical(self.transition[tokens[:, i - 1]], g)
        return tokens

    def log_likelihood(self, tokens: Tokens, mask: Bool[Tensor, "b n"] | None = None) -> Float64[Tensor, "b"]:
        """`log p(x)` of the real tokens, in nats.

        Args:
            tokens: in 0 ... k - 1; what padding holds does not matter.
            mask: True where a token is real; padding may precede or follow a sequence, not interrupt it.
        """
        device = tokens.device
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.expand(tokens.shape)
        tokens = torch.where(real, tokens, 0)
        step = self.transition.to(device).log()[tokens[:, :-1], tokens[:, 1:]]
        start = self.initial.to(device).log()[tokens]
        first = real & (real.cumsum(1) == 1)
        steps = torch.where(real[:, 1:] & real[:, :-1], step, 0.0).sum(1)
        return steps + torch.where(first, start, 0.0).sum(1)


def marginals(
    initial: Float64[Tensor, "k"], transition: Square, evidence: Float64[Tensor, "b n k"]
) -> Float64[Tensor, "b n k"]:
    """`p(x_i = a | evidence)` by forward-backward (Rabiner 1989, eqs. 19 to 27, with his scaling).

    Args:
        initial, transition: pi and P.
        evidence: the likelihood `p(observation_i | x_i = a)` up to a factor per position: one-hot for
            a seen token, all equal for a hidden one.
    """
    length = evidence.shape[1]
    forward = [_normalised(initial * evidence[:, 0])]
    for i in range(1, length):
        forward.append(_normalised(forward[-1] @ transition * evidence[:, i]))
    backward = [torch.ones_like(forward[0])]
    for i in range(length - 1, 0, -1):
        backward.append(_normalised((backward[-1] * evidence[:, i]) @ transition.T))
    return _normalised(torch.stack(forward, 1) * torch.stack(backward[::-1], 1))


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)
