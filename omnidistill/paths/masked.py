"""Absorbing corruption of tokens: `q(x_t | x0) = Cat(alpha_t x0 + (1 - alpha_t) mask)`."""

from __future__ import annotations

from typing import NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.paths.base import P, Time, as_time, keep_given, per_sample, undecided
from omnidistill.paths.schedules import Schedule, schedule
from omnidistill.posteriors import CategoricalPosterior, certain
from omnidistill.random import uniform
from omnidistill.shapes import Mask, State, Tokens


class MaskedPath:
    """Each token is replaced by the mask, once and for all, with probability `1 - alpha(t)`. Tokens that are given
    (`context.anchor`, infilling) are never replaced.

    Args:
        vocab: number of real tokens; they are 0 ... vocab - 1 and the mask is `mask_id = vocab`.
        schedule_: name or function alpha(t), see `omnidistill.paths.schedules`.
        random_tokens: share of the prior's positions that hold a uniformly random token instead of the mask. A
            one-step student answers each position independently given its input, so an all-mask input would make
            its tokens independent of one another; random tokens are its source of variety (Zhu et al. 2025,
            Di[M]O, token initialisation). They carry no information, so at t = 1 every position is unresolved.
    """

    span = (1e-3, 1.0)
    floor = 0.0
    time_axis: int | None = 1

    def __init__(self, vocab: int, schedule_: str | Schedule = "linear", random_tokens: float = 0.0) -> None:
        if vocab < 2:
            raise UserError(f"a vocabulary needs at least 2 tokens, got vocab={vocab}")
        if not 0.0 <= random_tokens <= 1.0:
            raise UserError(f"random_tokens is a share in [0, 1], got {random_tokens}")
        self.vocab, self.mask_id, self.random_tokens = vocab, vocab, random_tokens
        self.alpha = schedule(schedule_)
        self.offers = frozenset({"masked", "categorical", "composable"})

    def __repr__(self) -> str:
        return f"MaskedPath(vocab={self.vocab})"

    def with_prior(self, random_tokens: float) -> MaskedPath:
        """The same process started from another share of random tokens."""
        return MaskedPath(self.vocab, self.alpha, random_tokens)

    def prior(self, like: State, context: Context = Context(), *, g: torch.Generator | None = None) -> Tokens:
        masks = torch.full_like(like, self.mask_id, dtype=torch.long)
        if not self.random_tokens:
            return keep_given(masks, context, self.vocab)
        which = uniform(masks, g, context.mask) < self.random_tokens
        tokens = (uniform(masks, g, context.mask) * self.vocab).long()
        return keep_given(torch.where(which, tokens, masks), context, self.vocab)

    def corrupt(
        self, x0: Tokens, t: Time, context: Context = Context(), *, g: torch.Generator | None = None
    ) -> Tokens:
        alpha = per_sample(self.alpha(as_time(t, x0)), x0, self.time_axis)
        x_t = torch.where(uniform(x0, g, context.mask) < alpha, x0, self.mask_id)
        return keep_given(x_t, context, self.vocab)

    def renoise(
        self, x0: Tokens, t: Time, context: Context = Context(), *, g: torch.Generator | None = None
    ) -> Tokens:
        """`corrupt`, and at t = 1 the prior: there the random tokens are part of what a sampler sees."""
        x_t = self.corrupt(x0, t, context, g=g)
        if not self.random_tokens:
            return x_t
        return torch.where(self._at_prior(x_t, t), self.prior(x0, context, g=g), x_t)

    def _at_prior(self, x_t: Tokens, t: Time) -> Bool[Tensor, ""] | Bool[Tensor, "#b #n"]:
        return per_sample(as_time(t, x_t) >= 1.0, x_t, self.time_axis)

    def bridge(
        self,
        x_t: Tokens,
        x0: Tokens,
        t: Time,
        s: Time,
        context: Context = Context(),
        *,
        churn: float = 0.0,
        g: torch.Generator | None = None,
    ) -> Tokens:
        """A masked token is revealed as x0 with probability `(alpha_s - alpha_t) / (1 - alpha_t)`, others stay
        (Sahoo et al. 2024, MDLM, eq. 7). There is no deterministic jump, so `churn` changes nothing."""
        reveal = self._reveal(x0, t, s)
        decided = torch.where(uniform(x0, g, context.mask) < reveal, x0, self.mask_id)
        return keep_given(torch.where(self.unresolved(x_t, t), decided, x_t), context, self.vocab)

    def _reveal(self, x0: Tokens, t: Time, s: Time) -> Float[Tensor, ""] | Float[Tensor, "#b #n"]:
        alpha_t, alpha_s = self.alpha(as_time(t, x0)), self.alpha(as_time(s, x0))
        return per_sample((alpha_s - alpha_t) / (1.0 - alpha_t), x0, self.time_axis)

    def bridge_law(
        self, x_t: Tokens, x0: Tokens, t: Time, s: Time, context: Context = Context(), *, churn: float = 0.0
    ) -> Float64[Tensor, "b n {self.vocab}+1"]:
        """q(x_s | x_t, x0), the mask last."""
        reveal = self._reveal(x0, t, s).expand(x0.shape).unsqueeze(-1)
        clean, mask, same = (
            F.one_hot(token, self.vocab + 1).double()
            for token in (x0, torch.full_like(x0, self.mask_id), keep_given(x_t, context, self.vocab))
        )
        open_ = undecided(self, x_t, t, context, self.vocab).unsqueeze(-1)
        return torch.where(open_, reveal * clean + (1.0 - reveal) * mask, same)

    def velocity(self, x_t: Tokens, x0: Tokens, t: Time, context: Context = Context()) -> NoReturn:
        raise UserError(f"tokens have no velocity, and {self} holds tokens; use a Gaussian path")

    def unresolved(self, x_t: Tokens, t: Time) -> Bool[Tensor, "b n"]:
        """Masked positions; at t = 1, where alpha is 0, every position, whatever it holds."""
        return (x_t == self.mask_id) | self._at_prior(x_t, t)

    def align(self, target: P, to: P, mask: Mask | None = None) -> P:
        return target

    def share(self, x_t: Tokens, x_r: Tokens, t: Time, r: Time, s: Time) -> Bool[Tensor, "b n"]:
        """A token takes the belief of the jump that revealed it: the first where x_r shows it, else the second.
        This is the target of SDTT (Deschenaux & Gulcehre 2024, alg. 1)."""
        return ~self.unresolved(x_r, r)

    def certain(self, x0: Tokens) -> CategoricalPosterior:
        return certain(x0, self.vocab)  # type: ignore[return-value]
