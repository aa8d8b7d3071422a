"""The matrix Fisher distribution on rotations, `p(R) = exp(tr(F^T R)) / c(F)`: its normaliser and its mean.

The normaliser is a one-dimensional integral (Lee 2018, "Bayesian attitude estimation with the matrix Fisher
distribution on SO(3)", theorem 2.1): with the proper singular values s of F and any cyclic (i, j, k),

    c = int_{-1}^{1} 1/2 I0((s_i - s_j)(1 - u)/2) I0((s_i + s_j)(1 + u)/2) exp(s_k u) du,

c(0) = 1. Its integrand is the density of `u = R_kk` in the frame of the singular vectors, so `E[R_kk]` is the mean
of u.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NODES = 128
TAIL = 1e-12


class MatrixFisher(NamedTuple):
    """log_normaliser: Float64[...], `log c(F)`; mean: Float64[... 3 3], `E[R]`."""

    log_normaliser: Tensor
    mean: Tensor


def proper_svd(f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`F = U diag(s) V^T` with rotations U, V and `s1 >= s2 >= |s3|`: Float64[... 3 3], [... 3], [... 3 3] (V^T).

    s3 has the sign of det F, so a reflection never passes for a rotation (Lee 2018, definition 2.2).
    """
    u, s, vh = torch.linalg.svd(f.double())
    ones = torch.ones_like(s[..., 0])
    det_u, det_v = torch.linalg.det(u), torch.linalg.det(vh)
    sign_u, sign_v = (torch.where(d < 0, -ones, ones).detach() for d in (det_u, det_v))
    u = u * torch.stack((ones, ones, sign_u), -1).unsqueeze(-2)
    vh = vh * torch.stack((ones, ones, sign_v), -1).unsqueeze(-1)
    return u, s * torch.stack((ones, ones, sign_u * sign_v), -1), vh


def matrix_fisher(f: Tensor) -> MatrixFisher:
    """The normaliser and the mean for `F: Float[... 3 3]`; error below 1e-9 up to `|F|` of 1e6.

    At large F the mean is the rotation of Kabsch (1976), at F = 0 it is 0.
    """
    u, s, vh = proper_svd(f)
    log_c, shortfall = zip(*(_axis(s, k) for k in range(3)), strict=True)
    diagonal = 1.0 - torch.stack(shortfall, -1)
    return MatrixFisher(log_c[0], (u * diagonal.unsqueeze(-2)) @ vh)


def _axis(s: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`log c` and `E[1 - R_kk]` for proper singular values s: Float64[... 3].

    With v = 1 - u and A = |s_i - s_j|/2, B = |s_i + s_j|/2, I0(x) = e^|x| i0e(x), the integrand is

        exp(2 B + s_k - c v) i0e(A v) i0e(B (2 - v)) / 2,     c = B - A + s_k >= 0:

    nothing overflows. It varies on the scales 1/c and 1/A near v = 0 and 1/B near v = 2, which may be 1e-6. In
    v = 2 sigmoid(x) all of them have width one, and the trapezoidal rule converges geometrically (Trefethen & Weideman
    2014, sec. 5) on the interval of x outside which less than about TAIL of the integral lies.
    """
    i, j = (k + 1) % 3, (k + 2) % 3
    a, b = 0.5 * (s[..., i] - s[..., j]).abs(), 0.5 * (s[..., i] + s[..., j]).abs()
    c = (b - a + s[..., k]).clamp_min(0.0)
    low = torch.log(0.5 * TAIL / (1.0 + a + c)).detach()
    high = -torch.log(0.5 * TAIL / (1.0 + b)).detach()
    # Where exp(-c v) is below TAIL nothing is left to integrate.
    end = (-torch.log(torch.tensor(TAIL, dtype=s.dtype, device=s.device)) / c.clamp_min(1e-300)).detach()
    high = torch.where(end < 1.0, torch.minimum(high, torch.logit(0.5 * end.clamp(max=1.0))), high)
    nodes = torch.linspace(0.0, 1.0, NODES, dtype=s.dtype, device=s.device)
    x = low.unsqueeze(-1) + (high - low).unsqueeze(-1) * nodes
    v, rest = 2.0 * torch.sigmoid(x), 2.0 * torch.sigmoid(-x)
    a, b, c = a.unsqueeze(-1), b.unsqueeze(-1), c.unsqueeze(-1)
    # dv/dx = v (2 - v) / 2; the other 1/2 is the integrand's.
    weight = 0.25 * v * rest * torch.exp(-c * v) * torch.special.i0e(a * v) * torch.special.i0e(b * rest)
    total = weight.sum(-1) * ((high - low) / (NODES - 1))
    return total.log() + 2.0 * b.squeeze(-1) + s[..., k], (weight * v).sum(-1) / weight.sum(-1)


def random_rotations(count: int, g: torch.Generator) -> Tensor:
    """Float64[count 3 3], uniform over SO(3): normal quaternions, normalised (Shoemake 1992)."""
    q = torch.randn(count, 4, generator=g, device=g.device, dtype=torch.float64)
    return rotation_of(q / q.norm(dim=1, keepdim=True))


def rotation_of(quaternion: Tensor) -> Tensor:
    """The rotation matrix, Float[... 3 3], of a unit quaternion `(w, x, y, z)`: Float[... 4]."""
    w, x, y, z = quaternion.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
