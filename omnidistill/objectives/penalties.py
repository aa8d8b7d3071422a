"""How steep a discriminator may be: `gamma / 2 E |grad D|^2`, at real samples R1 (Mescheder et al. 2018, eq. 9), at
fake ones R2.

`exact`      by differentiating the gradient, which needs second derivatives of the network
`perturbed`  `(D(x + sigma xi) - D(x))^2 / sigma^2`, xi normal, whose mean tends to `|grad D|^2` as sigma tends to 0
             (Lin et al. 2025, Seaweed-APT, arXiv:2501.08316, which does not divide by sigma^2: a weight lambda there
             is `gamma = 2 lambda sigma^2` here)
`features`   exact, with respect to the features that the head reads instead of the sample (Sauer et al. 2023, ADD), at
             no call of the network

D is the mean of a jury's logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from omnidistill.errors import UserError, unknown
from omnidistill.random import normal

PENALTIES = ("exact", "perturbed", "features")

Logits = Callable[[Tensor], Tensor]
"""Float[b ...] -> Float[b] or, of a jury, Float[b heads]."""


def check(kind: str, r1: float, r2: float, sigma: float) -> None:
    """Refuses what is no penalty."""
    if kind not in PENALTIES:
        raise unknown("penalty of a discriminator", kind, PENALTIES)
    if min(r1, r2) < 0.0 or not sigma > 0.0:
        raise UserError(f"penalties need r1, r2 >= 0 and sigma > 0, got r1={r1}, r2={r2}, sigma={sigma}")


def exact(logits: Logits, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
    """`|grad D(x)|^2`, with its own graph to the parameters of D. Attention goes by plain products meanwhile: the fused
    kernels have no second derivative."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(mean(logits(x)).sum(), x, create_graph=True)
        return gradient.square().flatten(1).sum(1)


def perturbed(
    logits: Logits,
    x: Float[Tensor, "b ..."],
    known: Tensor,
    sigma: float,
    g: torch.Generator,
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "b"]:
    """`(D(x + sigma xi) - D(x))^2 / sigma^2` with the logits `known` at x."""
    moved = x.detach() + sigma * normal(x, g, mask)
    return ((mean(logits(moved)) - mean(known)) / sigma).square()


def mean(logits: Tensor) -> Float[Tensor, "b"]:
    """Over a jury's heads."""
    return logits.flatten(1).mean(1) if logits.ndim > 1 else logits
