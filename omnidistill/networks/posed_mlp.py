"""A perceptron over a small cloud of labelled points, equivariant to rotations: for rigid clouds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.mlp import MLP
from omnidistill.random import generator


class PosedMLP(nn.Module):
    """`f(x) = g(x R) R^T` with a residual perceptron g on all coordinates and `R = R(x)` the rotation that turns
    x onto a fixed cloud, so that `f(x Q) = f(x) Q` for every rotation Q, and for no reflection (canonicalisation: Kaba
    et al. 2023, "Equivariance with learned canonicalization functions", sec. 3).

    That is the symmetry of the posterior mean of data which are in every orientation alike; a network without it has to
    learn every pose. A new network answers 0.

    Args:
        points: of every cloud; what pads a longer one is not read, and answered by 0.
        width, depth, target_time, guidance: of g, see `MLP`.
    """

    feature_module = "inner.blocks"  # its output, Float[b width], is what a discriminator head reads
    feature_axis = 1
    fixed: Tensor

    def __init__(
        self,
        points: int,
        width: int = 256,
        depth: int = 4,
        target_time: bool = False,
        guidance: bool = False,
    ) -> None:
        super().__init__()
        self.points, self.feature_channels = points, width
        self.inner = MLP(3 * points, width, depth, target_time=target_time, guidance=guidance)
        # A function of the number of points alone, so that no file has to hold it.
        self.register_buffer(
            "fixed", torch.randn(points, 3, generator=generator("pose", points)), persistent=False
        )

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        target_time: Tensor | None = None,
        guidance: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """x: Float[b n 3]; t, target_time, guidance: Float[b]; mask: Bool[b n 1], real points first -> Float[b n 3]."""
        if x.shape[1] < self.points or (mask is None and x.shape[1] != self.points):
            raise UserError(f"this network was built for clouds of {self.points} points, got {x.shape[1]}")
        real = x[:, : self.points]
        turn = onto(real, self.fixed)
        told = {"target_time": target_time, "guidance": guidance}
        answer = self.inner((real @ turn).flatten(1), t, **told).unflatten(1, real.shape[1:])
        return F.pad(answer @ turn.mT.to(answer.dtype), (0, 0, 0, x.shape[1] - self.points))


def onto(x: Tensor, fixed: Tensor) -> Tensor:
    """Float[b 3 3]: the proper rotations R for which x R lies nearest to the fixed cloud: with `x^T fixed = U S V^T` it
    is `U diag(1, 1, det(U V^T)) V^T` (Umeyama 1991, eq. 40). Its gradient flows: R is part of the answer."""
    u, _, vh = torch.linalg.svd(x.double().mT @ fixed.double())
    sign = torch.linalg.det(u.detach() @ vh.detach())
    ones = torch.ones_like(sign)
    return ((u * torch.stack((ones, ones, sign), -1).unsqueeze(-2)) @ vh).to(x.dtype)
