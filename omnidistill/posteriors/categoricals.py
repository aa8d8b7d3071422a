"""A categorical per token, and the certain belief in given tokens, which is never written out where it need not be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from omnidistill.errors import unknown
from omnidistill.posteriors.base import like, towards
from omnidistill.random import categorical
from omnidistill.shapes import Time, Tokens, Weight

if TYPE_CHECKING:
    from omnidistill.paths import Path

Logits = Float[Tensor, "b n k"]
PerToken = Float[Tensor, "b n"]
Mask = Bool[Tensor, "#b #n"]

IMPOSSIBLE = -1e4
"""Logit of a token that is ruled out. Finite, so that a weight or mask of zero really removes it (0 * -inf is NaN);
`exp` of it is exactly 0 in every floating-point format."""

LEAST = math.log(torch.finfo(torch.float32).eps)
"""Log-probability, -15.9, below which a target counts as this by `backward` and `l2`: float32 cannot tell such a
probability from 0 beside 1. Both are infinite against a belief that rules a token out, and bounded with this floor:
`backward` by 15.9 nats, `l2` by 127 a class."""

KINDS = ("nll", "forward", "backward", "jsd", "tv", "l2")


@dataclass(frozen=True)
class CategoricalPosterior:
    """Independent categoricals, one per token, by logits over k tokens: not necessarily normalised, -inf or
    `IMPOSSIBLE` where a token is ruled out."""

    logits: Logits

    @property
    def parameters(self) -> Logits:
        return self.logits

    @property
    def log_probs(self) -> Logits:
        """Never below `IMPOSSIBLE`, so finite for logits of -inf."""
        return F.log_softmax(self.logits, -1).clamp_min(IMPOSSIBLE)

    @property
    def probs(self) -> Logits:
        """They sum to 1 over the last axis, zero where a logit is -inf."""
        return F.softmax(self.logits, -1)

    def replace(self, parameters: Logits) -> CategoricalPosterior:
        return CategoricalPosterior(parameters)

    def __getitem__(self, rows: slice) -> CategoricalPosterior:
        return CategoricalPosterior(self.logits[rows])

    def sample(self, g: torch.Generator | None = None, mask: Mask | None = None) -> Tokens:
        return categorical(F.softmax(self.logits.detach().double(), -1), g, mask)

    def log_prob(self, x0: Tokens) -> PerToken:
        """One logit gathered and one log-sum-exp, no table of log-probabilities kept for the gradient."""
        chosen = self.logits.gather(-1, x0.unsqueeze(-1)).squeeze(-1)
        return (chosen - self.logits.logsumexp(-1)).clamp_min(IMPOSSIBLE)

    def divergence(
        self, target: CategoricalPosterior, kind: str = "nll", mask: Mask | None = None
    ) -> PerToken:
        """Per token, in nats, p = target and q = self.

        `nll`: cross-entropy -sum p log q. `forward`: KL(p||q). `backward`: KL(q||p), log p no less than `LEAST`.
        `jsd`: Jensen-Shannon. `tv`: total variation. `l2`: half the squared distance of log-probabilities, neither
        less than `LEAST`. Against `CertainTokens` all but `backward` and `l2` need q(x0) alone.
        """
        if kind not in KINDS:
            raise unknown("divergence between categoricals", kind, KINDS)
        if isinstance(target, CertainTokens) and kind in _CERTAIN:
            return _CERTAIN[kind](self.log_prob(target.tokens))
        log_q, log_p = self.log_probs, target.log_probs
        if kind == "nll":
            return -(log_p.exp() * log_q).sum(-1)
        if kind == "forward":
            return _kl(log_p, log_q)
        if kind == "backward":
            return _kl(log_q, log_p.clamp_min(LEAST))
        if kind == "jsd":
            log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
            return 0.5 * (_kl(log_p, log_m) + _kl(log_q, log_m))
        if kind == "tv":
            return 0.5 * (log_q.exp() - log_p.exp()).abs().sum(-1)
        return 0.5 * (log_q.clamp_min(LEAST) - log_p.clamp_min(LEAST)).square().sum(-1)

    def pull(self, direction: Logits, weight: Weight = 1.0) -> PerToken:
        return towards(self.logits, like(weight, direction) * direction).sum(-1)

    def gap(self, real: CategoricalPosterior, kind: str = "forward") -> Logits:
        """Gradient on the logits of this belief f of a divergence to `real` T (Zhu et al. 2025, Di[M]O).

        `forward`: KL(T||f) gives `p_f - p_T`. `reverse`: KL(f||T) gives `p_f (log p_f/p_T - KL(f||T))`, log p_T no
        less than `LEAST`.
        """
        if kind == "forward":
            return self.probs - real.probs
        if kind == "reverse":
            ratio = self.log_probs - real.log_probs.clamp_min(LEAST)
            return self.probs * (ratio - (self.probs * ratio).sum(-1, keepdim=True))
        raise unknown("gap between categoricals", kind, ("forward", "reverse"))

    def distance(self, x0: Tokens) -> PerToken:
        """Total variation between the certain belief in x0 and this one: `1 - p(x0)`."""
        return 1.0 - self.log_prob(x0).exp()

    def blend(self, other: CategoricalPosterior, weight: Tensor | float) -> CategoricalPosterior:
        """In log space, where no mixed probability of 0 sends NaN backwards; a weight of 0 removes a belief wholly.
        Truth values choose, token by token."""
        if isinstance(weight, Tensor) and weight.dtype == torch.bool:
            chosen = weight.reshape(weight.shape + (1,) * (self.logits.ndim - weight.ndim))
            return CategoricalPosterior(torch.where(chosen, self.logits, other.logits))
        w = torch.as_tensor(weight, dtype=self.logits.dtype, device=self.logits.device)
        if w.ndim < self.logits.ndim:
            w = w.reshape(w.shape + (1,) * (self.logits.ndim - w.ndim))
        log_a, log_b, still = self.log_probs, other.log_probs, w.detach()
        mixed = torch.logaddexp(_log_share(still) + log_a, _log_share(1 - still) + log_b)
        if w.requires_grad:
            # d log(w a + (1 - w) b) / dw = (a - b) / mixture, which log w and log(1 - w) cannot give at w = 0 and 1.
            slope = (log_a - mixed).clamp_max(-LEAST).exp() - (log_b - mixed).clamp_max(-LEAST).exp()
            mixed = mixed + slope.detach() * (w - still)
        return CategoricalPosterior(mixed)

    def guide(self, unconditional: CategoricalPosterior, scale: Weight) -> CategoricalPosterior:
        """Where the unconditional belief rules a token out, nothing can be extrapolated from it, and s > 1 leaves the
        conditional one."""
        base, own = unconditional.log_probs, self.log_probs
        s = like(scale, self.logits)
        guided = torch.where((base <= 0.5 * IMPOSSIBLE) & (s > 1), own, base + s * (own - base))
        return CategoricalPosterior(guided.clamp_min(IMPOSSIBLE))

    def after(self, x_r: Tokens, r: Time, path: Path) -> CategoricalPosterior:
        return self


class CertainTokens(CategoricalPosterior):
    """The belief that the tokens are exactly these, of `classes`.

    As a target it is read by gathering, which needs no memory beyond the b n numbers: as a one-hot table 8 texts of
    1,024 tokens of 50,257 kinds would be 4.6 GiB. `logits` writes the table out for those who ask for it.
    """

    def __init__(self, tokens: Tokens, classes: int) -> None:
        object.__setattr__(self, "tokens", tokens.long())
        object.__setattr__(self, "classes", classes)

    tokens: Tokens
    classes: int

    def __repr__(self) -> str:
        return f"CertainTokens(tokens={tuple(self.tokens.shape)}, classes={self.classes})"

    @property
    def logits(self) -> Logits:
        """Written out, k numbers a token, for who cannot do with the tokens."""
        table = torch.full((*self.tokens.shape, self.classes), IMPOSSIBLE, device=self.tokens.device)
        return table.scatter_(-1, self.tokens.unsqueeze(-1), 0.0)

    def __getitem__(self, rows: slice) -> CertainTokens:
        return CertainTokens(self.tokens[rows], self.classes)

    def sample(self, g: torch.Generator | None = None, mask: Mask | None = None) -> Tokens:
        return self.tokens

    def distance(self, x0: Tokens) -> PerToken:
        return (self.tokens != x0).to(torch.float32)

    def gap(self, real: CategoricalPosterior, kind: str = "forward") -> Logits:
        if kind != "forward":
            return super().gap(real, kind)
        gap, index = -real.probs, self.tokens.unsqueeze(-1)
        return gap.scatter_add(-1, index, torch.ones(index.shape, dtype=gap.dtype, device=gap.device))


def _jsd(log_q: PerToken) -> PerToken:
    """Between q and certainty, from log q(x0): `1/2 (2 log 2 - (1 + q) log(1 + q) + q log q)`."""
    q = log_q.exp()
    return 0.5 * (2.0 * math.log(2.0) - (1.0 + q) * torch.log1p(q) + q * log_q)


_CERTAIN = {
    "nll": lambda log_q: -log_q,
    "forward": lambda log_q: -log_q,
    "tv": lambda log_q: 1.0 - log_q.exp(),
    "jsd": _jsd,
}
"""Divergences to a certain belief as functions of log q(x0)."""


def _kl(log_p: Logits, log_q: Logits) -> PerToken:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _log_share(w: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return torch.where(w > 0, w.clamp_min(torch.finfo(w.dtype).tiny).log(), 2 * IMPOSSIBLE)
