"""Uniform corruption of tokens: `q(x_t | x0) = Cat(alpha_t x0 + (1 - alpha_t) / K)`."""

from __future__ import annotations

from typing import NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.paths.base import P, Time, as_time, keep_given, per_sample
from omnidistill.paths.schedules import Schedule, schedule
from omnidistill.posteriors import CategoricalPosterior, certain
from omnidistill.random import categorical, uniform
from omnidistill.shapes import Mask, State, Tokens

Probs = Float64[Tensor, "b n {self.vocab}"]


class UniformPath:
    """Each token is resampled uniformly from the vocabulary with probability `1 - alpha(t)` (Austin et al. 2021;
    Sahoo et al. 2025, Duo). Tokens are 0 ... vocab - 1; there is no mask, so nothing is ever visibly resolved, but
    for tokens that are given (`context.anchor`, with `vocab` where none is), which are never resampled."""

    span = (1e-3, 1.0)
    floor = 0.0
    time_axis: int | None = 1

    def __init__(self, vocab: int, schedule_: str | Schedule = "linear") -> None:
        if vocab < 2:
            raise UserError(f"a vocabulary needs at least 2 tokens, got vocab={vocab}")
        self.vocab, self.alpha = vocab, schedule(schedule_)
        self.offers = frozenset({"uniform", "categorical"})

    def __repr__(self) -> str:
        return f"UniformPath(vocab={self.vocab})"

    def _random(self, like: State, context: Context, g: torch.Generator | None) -> Tokens:
        return (uniform(like, g, context.mask) * self.vocab).long()

    def prior(self, like: State, context: Context = Context(), *, g: torch.Generator | None = None) -> Tokens:
        return keep_given(self._random(like, context, g), context, self.vocab)

    def corrupt(
        self, x0: Tokens, t: Time, context: Context = Context(), *, g: torch.Generator | None = None
    ) -> Tokens:
        alpha = per_sample(self.alpha(as_time(t, x0)), x0, self.time_axis)
        x_t = torch.where(uniform(x0, g, context.mask) < alpha, x0, self._random(x0, context, g))
        return keep_given(x_t, context, self.vocab)

    renoise = corrupt

    def bridge_probs(self, x_t: Tokens, x0: Tokens, t: Time, s: Time) -> Probs:
        """q(x_s | x_t, x0) by Bayes' rule with `a = alpha_t / alpha_s`:
        `q(x_t | x_s) = a [x_t = x_s] + (1 - a) / K`, `q(x_s | x0) = alpha_s [x_s = x0] + (1 - alpha_s) / K`
        (Sahoo et al. 2025, unnormalised)."""
        alpha_t, alpha_s = self.alpha(as_time(t, x0)), self.alpha(as_time(s, x0))
        # alpha_s = 0 only where s = t = 1: no time passes, so x_s = x_t.
        gain = torch.where(alpha_s == 0, 1.0, alpha_t / alpha_s)
        gain = per_sample(gain, x0, self.time_axis).unsqueeze(-1)
        clean = per_sample(alpha_s, x0, self.time_axis).unsqueeze(-1)
        likelihood = gain * F.one_hot(x_t, self.vocab) + (1.0 - gain) / self.vocab
        before = clean * F.one_hot(x0, self.vocab) + (1.0 - clean) / self.vocab
        joint = likelihood * before
        return joint / joint.sum(-1, keepdim=True)

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
        """Draws from `bridge_probs`. There is no deterministic jump, so `churn` changes nothing."""
        x_s = categorical(self.bridge_probs(x_t, x0, t, s), g, context.mask)
        return keep_given(x_s, context, self.vocab)

    def bridge_law(
        self, x_t: Tokens, x0: Tokens, t: Time, s: Time, context: Context = Context(), *, churn: float = 0.0
    ) -> Probs:
        """q(x_s | x_t, x0): `bridge_probs`, certain where a token is given."""
        probs = self.bridge_probs(x_t, x0, t, s)
        if context.anchor is None:
            return probs
        given = context.anchor.clamp(max=self.vocab - 1)
        known = (context.anchor != self.vocab).unsqueeze(-1)
        return torch.where(known, F.one_hot(given, self.vocab).to(probs.dtype), probs)

    def velocity(self, x_t: Tokens, x0: Tokens, t: Time, context: Context = Context()) -> NoReturn:
        raise UserError(f"tokens have no velocity, and {self} holds tokens; use a Gaussian path")

    def unresolved(self, x_t: Tokens, t: Time) -> Bool[Tensor, "b n"]:
        return torch.ones_like(x_t, dtype=torch.bool)

    def align(self, target: P, to: P, mask: Mask | None = None) -> P:
        return target

    def share(self, x_t: Tokens, x_r: Tokens, t: Time, r: Time, s: Time) -> NoReturn:
        raise UserError(
            "the uniform path cannot merge two jumps into one belief; use a masked or a Gaussian path"
        )

    def certain(self, x0: Tokens) -> CategoricalPosterior:
        return certain(x0, self.vocab)  # type: ignore[return-value]
