"""What a network's output says of x0: a point, a distribution over tokens, or one over one-hot states.

`of` is the denoiser, `here` the state and time as its network knows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers.inputs import Here
from omnidistill.denoisers.parameterisation import to_x0
from omnidistill.errors import UserError
from omnidistill.paths.base import per_sample, undecided
from omnidistill.posteriors import (
    IMPOSSIBLE,
    CategoricalPosterior,
    PointPosterior,
    Posterior,
    SimplexPosterior,
)
from omnidistill.shapes import Real, Tokens

if TYPE_CHECKING:
    from omnidistill.denoisers.network import NetworkDenoiser


def point(of: NetworkDenoiser, out: Tensor, x_t: Real, t: Tensor, context: Context, here: Here) -> Posterior:
    """By the parameterisation; the boundary f(x, 0) = x holds whatever the network."""
    if out.shape != x_t.shape:
        raise UserError(
            f"the network answered {tuple(out.shape)} to a state of {tuple(x_t.shape)}; they must match"
        )
    x, u, clean, at = here
    anchor = context.anchor if "anchored" in of.home.offers else None
    mean = to_x0(of.home, of.parameterisation, out.to(x.dtype), x, u, anchor, of.sigma_data, at)  # type: ignore[arg-type]
    mean = torch.where(per_sample(clean, x, of.time_axis) > 0, x, mean)
    return PointPosterior(mean if context.mask is None else mean * context.mask)


def tokens(
    of: NetworkDenoiser, out: Tensor, x_t: Tokens, t: Tensor, context: Context, here: Here
) -> Posterior:
    """Logits of the open tokens; one that is resolved is itself, and the mask is never predicted (SUBS: Sahoo et al.
    2024)."""
    vocab = of.path.vocab  # type: ignore[attr-defined]
    if out.shape[:-1] != x_t.shape or out.shape[-1] < vocab:
        raise UserError(
            f"the network answered {tuple(out.shape)} to tokens of {tuple(x_t.shape)}; "
            f"logits must be {(*tuple(x_t.shape), vocab)}"
        )
    logits = out[..., :vocab]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    known = torch.full_like(logits, IMPOSSIBLE).scatter(-1, x_t.clamp(max=vocab - 1).unsqueeze(-1), 0.0)
    open_ = undecided(of.path, x_t, t, context, vocab).unsqueeze(-1)
    return CategoricalPosterior(torch.where(open_, logits, known))


def simplex(
    of: NetworkDenoiser, out: Tensor, x_t: Tensor, t: Tensor, context: Context, here: Here
) -> Posterior:
    """Logits of every position; at t = 0 the state itself."""
    if out.shape != x_t.shape:
        raise UserError(
            f"the network answered {tuple(out.shape)} to one-hot states of {tuple(x_t.shape)}; they must match"
        )
    clean = per_sample(t, x_t, of.time_axis) == 0
    return SimplexPosterior(torch.where(clean, SimplexPosterior.of(x_t).logits, out.to(x_t.dtype)))
