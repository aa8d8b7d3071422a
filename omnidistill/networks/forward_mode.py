"""What a network needs so that `torch.func.jvp` runs through it, in every precision and layout.

Flow-map objectives and continuous-time consistency differentiate a network along (x, t). Two kernels stand in the way:
fused attention has no forward derivative, and a norm under bfloat16 autocast pairs a bfloat16 value with a float32
tangent. Both are replaced, while a tangent flows and only then, by the same formula in other kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad


def tangent_flows() -> bool:
    """Whether forward-mode derivatives are being taken: inside `torch.func.jvp`, or a `forward_ad.dual_level`."""
    return forward_ad._current_level >= 0


def exact(x: Tensor) -> Tensor:
    """x in at least float32: what sums of many terms want."""
    return x if x.dtype == torch.float64 else x.float()


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """`F.layer_norm` over the last axis, in x's dtype; while a tangent flows, in float32 and back."""
    width = x.shape[-1:]
    if not tangent_flows():
        return F.layer_norm(x, width, weight, bias)
    weight, bias = (None if p is None else exact(p) for p in (weight, bias))
    return F.layer_norm(exact(x), width, weight, bias).to(x.dtype)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`F.group_norm` in x's dtype; while a tangent flows, in float32 and back, and on contiguous memory: its forward
    derivative views its input, which fails on the channels_last layout.

    Where weights alone want a gradient (what lies before is frozen) torch's backward kernel for channels_last on the
    CPU writes to an input gradient that is not there and ends the process; the contiguous one asks."""
    if not tangent_flows():
        alone = torch.is_grad_enabled() and weight.requires_grad and not x.requires_grad
        return F.group_norm(x.contiguous() if alone else x, groups, weight, bias, eps)
    return F.group_norm(exact(x).contiguous(), groups, exact(weight), exact(bias), eps).to(x.dtype)
