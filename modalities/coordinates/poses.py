"""Poses: superposition on a reference, random rotations about it, and the symmetry that leaves rotations alone."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.exact.rotations import random_rotations, rotation_of
from omnidistill.paths import RigidMotion
from omnidistill.random import normal

ROTATIONS = ("none", "small", "all")
SMALL = 0.1
"""Radians, standard deviation about each axis."""


class Centred(RigidMotion):
    """Divides out translations alone: noise is centred, targets keep the pose they have."""

    def align(self, target: Tensor, to: Tensor, mask: Tensor | None = None) -> Tensor:
        return target


def superposed(frames: Tensor, poses: dict[int, Tensor]) -> Tensor:
    """frames: Float[f n 3], centred and turned onto the reference pose of n points; where `poses` has none yet, the
    first frame becomes it."""
    motion = RigidMotion()
    x = motion.project(frames.double())
    pose = poses.setdefault(x.shape[1], x[:1])
    return motion.align(x, pose.expand_as(x)).float()


def rotated(x: Tensor, rotations: str, g: torch.Generator) -> Tensor:
    """x: Float[b n 3], each turned about the origin: not at all, a little, or any way."""
    if rotations == "none":
        return x
    turns = random_rotations(len(x), g).cpu() if rotations == "all" else small_rotations(len(x), g)
    return (x.double() @ turns.mT).to(x.dtype)


def small_rotations(count: int, g: torch.Generator, angle: float = SMALL) -> Tensor:
    """Float64[count 3 3]: rotation vectors of independent normal components with this standard deviation."""
    vector = angle * normal(torch.empty(count, 3, dtype=torch.float64), g)
    size = vector.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return rotation_of(torch.cat((torch.cos(size / 2), torch.sin(size / 2) * vector / size), 1))
