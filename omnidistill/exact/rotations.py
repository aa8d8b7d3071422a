"""The matrix Fisher distribution on rotations, `p(R) = exp(tr(F^T R)) / c(F)`: its normaliser and its mean.

Let s be the proper singular values of F and q the unit quaternion of R in the frame of the singular vectors. Then
`tr(F^T R) = l - g_1 q_1^2 - g_2 q_2^2 - g_3 q_3^2` (a Bingham distribution: Prentice 1986) with

    l = s1 + s2 + s3,    g = 2 (s2 + s3, s1 + s3, s1 + s2) >= 0.

A Gaussian integral over all of R^4, taken in shells, says that `det(z - K)^(-1/2)` is the Laplace transform of
`r c(r K)` for a quadratic form K. Its inverse at r = 1 is the normaliser, and the derivative of that by g_i a mean:

    c exp(-l) = (1 / 2 pi i) int e^z D(z) dz,    D = [z (z + g_1) (z + g_2) (z + g_3)]^(-1/2),    c(0) = 1,
    E q_i^2   = 1/2 int e^z D(z) / (z + g_i) dz / int e^z D(z) dz,    E[1 - R_ii] = 2 (E q_j^2 + E q_k^2).

All that is singular lies on the negative real axis, however large or unequal g is, so one contour around it serves all
of them: 12 nodes of Talbot's are exact to 1e-10 (Trefethen, Weideman & Schmelzer 2006, "Talbot quadratures and
rational approximations"). What is nearly 0 is found as such, and not as 1 minus something.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Matrices = Float64[Tensor, "*some 3 3"]
Values = Float64[Tensor, "*some 3"]


NODES = 12
"""On the upper half of the contour; the lower one is its mirror image. The error falls by 14 with each, and rounding,
largest where the contour crosses the real axis, grows by 1.4."""


class MatrixFisher(NamedTuple):
    """log_normaliser: `log c(F)`; mean: `E[R]`."""

    log_normaliser: Float64[Tensor, "*some"]
    mean: Float64[Tensor, "*some 3 3"]


def proper_svd(f: Float[Tensor, "*some 3 3"]) -> tuple[Matrices, Values, Matrices]:
    """`F = U diag(s) V^T` with rotations U, V and `s1 >= s2 >= |s3|`: (U, s, V^T).

    s3 has the sign of det F, so a reflection never passes for a rotation (Lee 2018, definition 2.2).
    """
    u, s, vh = torch.linalg.svd(f.double())
    ones = torch.ones_like(s[..., 0])
    det_u, det_v = torch.linalg.det(u), torch.linalg.det(vh)
    sign_u, sign_v = (torch.where(d < 0, -ones, ones).detach() for d in (det_u, det_v))
    u = u * torch.stack((ones, ones, sign_u), -1).unsqueeze(-2)
    vh = vh * torch.stack((ones, ones, sign_v), -1).unsqueeze(-1)
    return u, s * torch.stack((ones, ones, sign_u * sign_v), -1), vh


def matrix_fisher(f: Float[Tensor, "*some 3 3"]) -> MatrixFisher:
    """The normaliser and the mean for F; the error of both is below 1e-9 (of log c, plus the rounding
    of log c itself).

    At large F the mean is the rotation of Kabsch (1976), at F = 0 it is 0.
    """
    u, s, vh = proper_svd(f)
    s1, s2, s3 = s.unbind(-1)
    gaps = 2.0 * torch.stack((s2 + s3, s1 + s3, s1 + s2), -1).clamp_min(0.0)
    z, weight = (c.to(f.device) for c in CONTOUR)
    shifted = z + gaps.unsqueeze(-1)
    first, second, third = shifted.unbind(-2)
    # Above the real axis each factor has an argument from 0 to pi: minus a product of two lies off the cut of the root.
    density = -weight / ((-z * first).sqrt() * (-second * third).sqrt())
    total = density.real.sum(-1)
    squares = 0.5 * (density.unsqueeze(-2) / shifted).real.sum(-1) / total.unsqueeze(-1)
    diagonal = 1.0 - 2.0 * (squares.sum(-1, keepdim=True) - squares)
    return MatrixFisher(total.log() + s.sum(-1), (u * diagonal.unsqueeze(-2)) @ vh)


def _contour(count: int) -> tuple[Tensor, Tensor]:
    """Complex128[count] twice: nodes z and weights w with `Re sum w D(z) = (1 / 2 pi i) int e^z D(z) dz`, by the
    midpoint rule with N = 2 count nodes on `z(x) = N (0.5017 x cot(0.6407 x) - 0.6122 + 0.2645 i x)`, -pi < x < pi."""
    n = 2 * count
    x = (torch.arange(count, dtype=torch.float64) + 0.5) * (2.0 * math.pi / n)
    cot = 1.0 / torch.tan(0.6407 * x)
    z = n * (0.5017 * x * cot - 0.6122 + 0.2645j * x)
    slope = n * (0.5017 * cot - 0.5017 * 0.6407 * x * (1.0 + cot**2) + 0.2645j)
    return z, torch.exp(z) * slope * (2.0 / (1j * n))


CONTOUR = _contour(NODES)


def random_rotations(count: int, g: torch.Generator) -> Float64[Tensor, "{count} 3 3"]:
    """Uniform over SO(3): normal quaternions, normalised (Shoemake 1992)."""
    q = torch.randn(count, 4, generator=g, device=g.device, dtype=torch.float64)
    return rotation_of(q / q.norm(dim=1, keepdim=True))


def rotation_of(quaternion: Float[Tensor, "*some 4"]) -> Float[Tensor, "*some 3 3"]:
    """The rotation matrix of a unit quaternion `(w, x, y, z)`."""
    w, x, y, z = quaternion.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
