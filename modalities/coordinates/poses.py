"""Poses: superposition on a reference, random rotations about it, and the symmetry that leaves rotations alone."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int
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


Pose = tuple[Tensor, Tensor]
"""Long[n], the places of its points, ascending, and Float64[n 3]."""


def superposed(frames: Float[Tensor, "f n 3"], rows: Int[Tensor, "n"], pose: Pose) -> Float[Tensor, "f n 3"]:
    """Frames, points of the places `rows`, centred and turned onto a reference pose by the points
    that both have."""
    motion = RigidMotion()
    x, (places, to) = motion.project(frames.double()), pose
    if torch.equal(rows, places):
        return motion.align(x, to.expand_as(x)).float()
    mine, theirs = torch.isin(rows, places), torch.isin(places, rows)
    if int(mine.sum()) < 3:
        return x.float()
    # The turn of the shared points, taken by all: Kabsch 1976, as in `RigidMotion.align`.
    u, _, vh = torch.linalg.svd(motion.project(x[:, mine]).mT @ motion.project(to[theirs]))
    sign = torch.linalg.det(u @ vh).sign()
    flip = torch.diag_embed(torch.stack((torch.ones_like(sign), torch.ones_like(sign), sign), -1))
    return motion.project(x @ (u @ flip @ vh)).float()


def rotated(x: Float[Tensor, "b n 3"], rotations: str, g: torch.Generator) -> Float[Tensor, "b n 3"]:
    """x, each turned about the origin: not at all, a little, or any way."""
    if rotations == "none":
        return x
    turns = random_rotations(len(x), g).cpu() if rotations == "all" else small_rotations(len(x), g)
    return (x.double() @ turns.mT).to(x.dtype)


def small_rotations(count: int, g: torch.Generator, angle: float = SMALL) -> Float64[Tensor, "{count} 3 3"]:
    """Rotation vectors of independent normal components with this standard deviation."""
    vector = angle * normal(torch.empty(count, 3, dtype=torch.float64), g)
    size = vector.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return rotation_of(torch.cat((torch.cos(size / 2), torch.sin(size / 2) * vector / size), 1))
