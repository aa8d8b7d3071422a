"""Attention among all elements: fused where that is faster and has the derivatives that are asked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from omnidistill.networks.forward_mode import tangent_flows

Heads = Float[Tensor, "b heads n d"]


EXCLUDED = -1e4  # attention score of padding; finite, so that a row of nothing but padding is no NaN

FEW = 512
"""Up to so many elements the fused CPU kernel's backward pass in bfloat16 is the slower one: six times at 49, three at
196, and no longer at 1,024 (one core, heads of 32)."""


def attend(q: Heads, k: Heads, v: Heads, real: Bool[Tensor, "b n"] | None = None) -> Heads:
    """softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, eq. 1).

    Fused (`F.scaled_dot_product_attention`), which at 1,024 elements takes a third of the time and a quarter of the
    memory of the matrices written out; written out while a tangent flows, under `vmap`, and where the fused kernel
    trains slowly (see `FEW`).

    Args:
        real: True where an element may be attended to; None: everywhere.

    Returns:
        A value for each element, in v's dtype.
    """
    mask = None if real is None else EXCLUDED * (~real)[:, None, None, :].to(q.dtype)
    if not _written_out(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1).to(v.dtype) @ v


def _written_out(q: Tensor) -> bool:
    if tangent_flows():
        return True
    if not torch.compiler.is_compiling() and torch._C._functorch.is_batchedtensor(q):
        return True  # the fused kernel has no rule for batches of batches
    trained = torch.is_grad_enabled() and q.requires_grad
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and trained and q.shape[-2] <= FEW
