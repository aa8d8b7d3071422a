"""3D Gaussians seen by a pinhole camera, blended from front to back: differentiable, in plain torch.

Kerbl et al. 2023 (3D Gaussian Splatting): each Gaussian is flattened by the local affine form of the projection
(Zwicker et al. 2001, EWA splatting), and a pixel is

    c = sum_i c_i a_i prod_{j before i} (1 - a_j) + background prod_i (1 - a_i),   a_i = o_i exp(-d^T S_i^-1 d / 2)

with the Gaussians in the order of their depth. Every pixel looks at every Gaussian: right for hundreds of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

DISTANCE = 3.0
"""Of the camera from the origin, at which it looks. Scenes lie in the ball of radius 1, things in the middle of it."""
FOCAL = 3.4
"""So that a thing of radius 0.7 fills the picture but for a margin: its rim is at 3.4 0.7 / 3 = 0.8."""
BLUR = 0.3
"""Standard deviation, in pixels, that is added to a flattened Gaussian, so that none falls between pixels."""
OPAQUE = -1e-3
"""Largest logarithm of a Gaussian's opacity in a pixel: what is behind one that hides all has no gradient."""
CHUNK = 2**24
"""Numbers in an intermediate tensor where no gradient is wanted."""


@dataclass(frozen=True)
class Splats:
    """n Gaussians for each of b views.

    Attributes:
        mean: in the ball of radius 1.
        scale: standard deviations along its own axes.
        turn: unit quaternions (w, x, y, z) that turn these axes.
        opacity: 0 to 1.
        colour: c channels; -1 to 1 where they are a picture's.
    """

    mean: Float[Tensor, "b n 3"]
    scale: Float[Tensor, "b n 3"]
    turn: Float[Tensor, "b n 4"]
    opacity: Float[Tensor, "b n"]
    colour: Float[Tensor, "b n c"]

    def __getitem__(self, rows: slice | Tensor) -> Splats:
        return Splats(*(getattr(self, field.name)[rows] for field in fields(self)))


def axes(camera: Float[Tensor, "b 2"]) -> Float[Tensor, "b 3 3"]:
    """Rows right, up and towards the camera, of one that is at (azimuth, elevation), in radians, about the z axis."""
    (sa, ca), (se, ce) = ((angle.sin(), angle.cos()) for angle in camera.unbind(1))
    right = torch.stack((-sa, ca, torch.zeros_like(sa)), 1)
    up = torch.stack((-se * ca, -se * sa, ce), 1)
    back = torch.stack((ce * ca, ce * sa, se), 1)
    return torch.stack((right, up, back), 1)


def rotations(turn: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """The matrix of a unit quaternion."""
    w, x, y, z = turn.unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, -1).reshape(*turn.shape[:-1], 3, 3)


def view(
    splats: Splats, camera: Float[Tensor, "b 2"], size: int, background: Float[Tensor, "c"]
) -> Float[Tensor, "b c size size"]:
    """What the cameras see, row 0 at the top."""
    count, gaussians = splats.opacity.shape
    rows = count if torch.is_grad_enabled() else max(1, CHUNK // (4 * gaussians * size * size))
    parts = [
        _view(splats[slice(i, i + rows)], camera[i : i + rows], size, background)
        for i in range(0, count, rows)
    ]
    return torch.cat(parts)


def _view(splats: Splats, camera: Tensor, size: int, background: Tensor) -> Tensor:
    basis = axes(camera)
    x, y, near = torch.einsum("bij,bnj->bni", basis, splats.mean).unbind(2)
    depth = DISTANCE - near
    order = depth.argsort(1)
    zoom = FOCAL / depth
    # d(u, v) / d(right, up, back) of u = FOCAL x / depth: what a small step of the Gaussian does to its place.
    zero = torch.zeros_like(x)
    slope = torch.stack((zoom, zero, zoom * x / depth, zero, zoom, zoom * y / depth), 2).reshape(
        *x.shape, 2, 3
    )
    flat = slope @ basis.unsqueeze(1) @ rotations(splats.turn) * splats.scale.unsqueeze(2)
    spread = flat @ flat.mT + (2.0 * BLUR / size) ** 2 * torch.eye(2, dtype=flat.dtype, device=flat.device)
    a, b, c = spread[..., 0, 0], spread[..., 0, 1], spread[..., 1, 1]
    determinant = a * c - b * b
    q, r, p = c / determinant, b / determinant, a / determinant  # of S^-1: [[q, -r], [-r, p]]
    u, v = zoom * x, zoom * y
    # -d^T S^-1 d / 2 + log o as a polynomial of a pixel's place: one product of matrices for all pixels.
    constant = splats.opacity.clamp_min(1e-8).log() - 0.5 * (q * u * u - 2.0 * r * u * v + p * v * v)
    terms = (constant, q * u - r * v, p * v - r * u, -0.5 * q, r, -0.5 * p)
    told = torch.cat((torch.stack(terms, 2), splats.colour), 2)
    told = told.gather(1, order.unsqueeze(2).expand(-1, -1, told.shape[2]))
    line = (torch.arange(size, dtype=x.dtype, device=x.device) + 0.5) * (2.0 / size) - 1.0
    s, t = (grid.flatten() for grid in torch.meshgrid(line, -line, indexing="xy"))
    places = torch.stack((torch.ones_like(s), s, t, s * s, s * t, t * t))
    alpha = (told[..., :6] @ places).clamp_max(OPAQUE).exp()
    through = torch.log1p(-alpha).cumsum(1)
    before = torch.cat((torch.zeros_like(through[:, :1]), through[:, :-1]), 1).exp()
    seen = (alpha * before).mT @ told[..., 6:]
    seen = seen + background.to(seen) * through[:, -1].exp().unsqueeze(2)
    return seen.mT.unflatten(2, (size, size))
