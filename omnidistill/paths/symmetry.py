"""Symmetries that a path divides out: none, or rigid motion of points in space."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from omnidistill.shapes import Mask, Points, Real

PointMask = Bool[Tensor, "#b #n #3"]


class Symmetry(Protocol):
    """Motions that leave the meaning of a state as it is."""

    def project(self, x: Real, mask: Mask | None = None) -> Real:
        """x without the part that the symmetry makes meaningless (its centre of mass)."""
        ...

    def align(self, target: Real, to: Real, mask: Mask | None = None) -> Real:
        """The member of target's orbit nearest to `to`."""
        ...


class NoSymmetry:
    """Every state means something else."""

    def project(self, x: Real, mask: Mask | None = None) -> Real:
        return x

    def align(self, target: Real, to: Real, mask: Mask | None = None) -> Real:
        return target


class RigidMotion:
    """Rotations and translations of points in space; never reflections, so a mirror image is another shape."""

    def project(
        self, x: Float[Tensor, "*b n 3"], mask: Bool[Tensor, "*#b #n #3"] | None = None
    ) -> Float[Tensor, "*b n 3"]:
        """x with its centre of mass at the origin; padding stays zero."""
        if mask is None:
            return x - x.mean(-2, keepdim=True)
        weight = mask.to(x.dtype)
        centre = (x * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp_min(1.0)
        return (x - centre) * weight

    def align(self, target: Points, to: Points, mask: PointMask | None = None) -> Points:
        """`argmin_{R, c} sum_i |R target_i + c - to_i|^2` over proper rotations (Kabsch 1976; Umeyama 1991, eq. 40).

        With the covariance `H = sum_i target_i to_i^T = U S V^T`, `R = V diag(1, 1, det(V U^T)) U^T`. R and c are
        constants to the gradient: at the optimum the objective is stationary in both, and a target must not move
        with the belief that it is aligned to.
        """
        weight = torch.ones_like(target[..., :1]) if mask is None else mask.to(target.dtype)
        with torch.no_grad():
            total = weight.sum(-2, keepdim=True).clamp_min(1.0)
            centre_target = (target * weight).sum(-2, keepdim=True) / total
            centre_to = (to * weight).sum(-2, keepdim=True) / total
            covariance = ((target - centre_target) * weight).double().mT @ (to - centre_to).double()
            u, _, vh = torch.linalg.svd(covariance)
            sign = torch.linalg.det(u @ vh).sign()
            sign = torch.where(sign == 0, torch.ones_like(sign), sign)
            flip = torch.diag_embed(torch.stack((torch.ones_like(sign), torch.ones_like(sign), sign), -1))
            # Row vectors: aligned_i = target_i R^T with R^T = U diag V^T.
            rotation = u @ flip @ vh
        # In float64, which autocast leaves alone: a product in bfloat16 would move points by 1/256 of their distance.
        moved = ((target - centre_target).double() @ rotation).to(target.dtype)
        return (moved + centre_to) * weight
