"""How far two sets of feature vectors are apart, x (of the student, with its gradient) and y (real).

| kernel | of sets | at equal laws |
|---|---|---|
| `mmd` | `E k(x, x') + E k(y, y') - 2 E k(x, y)`, x and x' different samples (Gretton et al. 2012, eq. 3) | mean 0 |
| `energy` | the same with `k(x, y) = -|x - y|` | mean 0 |
| `linear` | the same with `k(x, y) = x . y`: the squared distance of means, blind to all else | mean 0 |
| `drift` | `|x - sg(x + V)|^2 / 2 d`, V the drifting field | V of mean 0 |
| `sliced` | squared 2-Wasserstein distance along random directions | positive for finite sets |
| `perceptual` | of x_i and y_i alone: distance of unit vectors (LPIPS: Zhang et al. 2018, eq. 1) | 0 if x_i = y_i |
| `squared` | of x_i and y_i alone: half their squared distance | 0 if x_i = y_i |

`same: Bool[n m]` says which x_i may be compared with which y_j, those of one condition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from omnidistill.errors import UserError

PAIRED = ("perceptual", "squared")
KERNELS = ("mmd", "energy", "linear", "drift", "sliced", *PAIRED)

Sets = Float[Tensor, "_ _"]
Kernel = Callable[[Tensor], Tensor]
"""Of squared distances."""


def scale(x: Sets, y: Sets) -> Tensor:
    """Root of the mean squared distance between both sets, without gradient: the unit of bandwidths."""
    with torch.no_grad():
        return torch.cdist(x, y).square().mean().sqrt().clamp_min(1e-12)


def gaussian(bandwidths: Sequence[float], unit: Tensor | float = 1.0) -> Kernel:
    """The mean of `exp(-|x - y|^2 / 2 b^2)` over b in units of `unit`."""

    def kernel(squares: Tensor) -> Tensor:
        return torch.stack([torch.exp(-0.5 * squares / (b * unit) ** 2) for b in bandwidths]).mean(0)

    return kernel


def distance(squares: Tensor) -> Tensor:
    """Minus the Euclidean distance; at 0, where it has no gradient, that of none."""
    return -torch.where(squares > 0, squares.clamp_min(1e-20).sqrt(), 0.0)


def u_statistic(
    x: Sets,
    y: Sets,
    kernel: Kernel,
    same_x: Bool[Tensor, "_ _"] | None = None,
    same_y: Bool[Tensor, "_ _"] | None = None,
    same: Bool[Tensor, "_ _"] | None = None,
) -> Tensor:
    """The unbiased estimate of the squared maximum mean discrepancy: pairs of a sample with itself are left out."""

    def own(a: Tensor, allowed: Tensor | None) -> Tensor:
        other = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
        return _mean(kernel(squares(a, a)), other if allowed is None else other & allowed)

    return own(x, same_x) + own(y, same_y) - 2.0 * _mean(kernel(squares(x, y)), same)


def linear(x: Sets, y: Sets) -> Tensor:
    """The unbiased `|E x - E y|^2`: of sums of inner products over pairs of different samples."""

    def own(a: Tensor) -> Tensor:
        n = len(a)
        return (a.sum(0).square().sum() - a.square().sum()) / (n * (n - 1))

    return own(x) + own(y) - 2.0 * x.mean(0) @ y.mean(0)


def squares(x: Sets, y: Sets) -> Float[Tensor, "_ _"]:
    """Squared distances. Not by `cdist`, whose gradient at 0 is none."""
    cross = x.square().sum(1)[:, None] + y.square().sum(1) - 2.0 * x @ y.mT
    return cross.clamp_min(0.0)


def _mean(values: Tensor, where: Tensor | None) -> Tensor:
    if where is None:
        return values.mean()
    return (values * where).sum() / where.sum().clamp_min(1)


def field(
    x: Sets,
    y: Sets,
    radius: float,
    same_x: Bool[Tensor, "_ _"] | None = None,
    same: Bool[Tensor, "_ _"] | None = None,
    alone: bool = True,
) -> Sets:
    """The drifting field V at each x_i (Deng et al. 2026, Drifting; on features of the teacher Zhang et al. 2026,
    arXiv:2605.07327): attracted by y, repelled by the other x,

    `V_i = (sum_k a-_ik) sum_j a+_ij y_j - (sum_j a+_ij) sum_k a-_ik x_k`,

    with affinities `a = sqrt(softmax over its row * softmax over its column)` of `-|.| / radius`, distances in units of
    their mean. The coefficients of a row add up to 0, so V moves with both sets; where both are one set and a sample
    may repel itself (`alone: false`) V is 0.
    """
    with torch.no_grad():
        points = torch.cat((y, x))
        far = torch.cdist(x, points)
        closeness = -far / (radius * far.mean().clamp_min(1e-12))
        n, m = len(x), len(y)
        allowed = torch.ones(n, m + n, dtype=torch.bool, device=x.device)
        if same is not None and same_x is not None:
            allowed = torch.cat((same, same_x), 1)
        if alone:
            itself = torch.eye(n, dtype=torch.bool, device=x.device)
            allowed = allowed & ~torch.cat((torch.zeros_like(allowed[:, :m]), itself), 1)
        closeness = closeness.masked_fill(~allowed, -1e9)
        a = (closeness.softmax(1) * closeness.softmax(0)).sqrt() * allowed
        towards, away = a[:, :m], a[:, m:]
        return towards @ y * away.sum(1, keepdim=True) - away @ x * towards.sum(1, keepdim=True)


def drift(x: Sets, fields: Sequence[Sets], normalise: bool) -> Tensor:
    """`|x - sg(x + V)|^2 / 2`, V the sum of the fields of several radii; with `normalise` each divided by its root mean
    square, so that all pull alike, at which the loss is constant and the fields' own sizes tell how far it is."""
    total = torch.zeros_like(x)
    for v in fields:
        total = total + (v / v.square().mean().sqrt().clamp_min(1e-12) if normalise else v)
    return 0.5 * (x - (x + total).detach()).square().mean()


def coverage(x: Sets, y: Sets, radius: float, same: Bool[Tensor, "_ _"] | None = None) -> Tensor:
    """How far each y is from the x next to it, a soft minimum: `E_j sum_i w_ij |x_i - y_j|^2 / unit^2`, w the softmax
    over i of `-|x_i - y_j| / (radius unit)`. It brings samples to where there are none; it is above 0 at equal laws."""
    unit, d = scale(x, y), squares(x, y)
    closeness = -d.detach().sqrt() / (radius * unit)
    if same is not None:
        closeness = closeness.masked_fill(~same, -1e9)
    weights = closeness.softmax(0) * (1.0 if same is None else same)
    return (weights * d).sum(0).mean() / unit**2


def sliced(x: Sets, y: Sets, directions: Float[Tensor, "_ _"]) -> Tensor:
    """Mean over directions of the squared 2-Wasserstein distance of projections (Bonneel et al. 2015, eq. 4)."""
    if len(x) != len(y):
        raise UserError(
            f"the sliced distance compares as many vectors with as many, got {len(x)} and {len(y)}"
        )
    a, b = (torch.sort(values @ directions, dim=0).values for values in (x, y))
    return (a - b).square().mean()


def perceptual(x: Float[Tensor, "b n c"], y: Float[Tensor, "b n c"], real: Float[Tensor, "b n"]) -> Tensor:
    """Between unit vectors at each position, summed over channels, averaged over real positions, then samples."""
    return _by_position((F.normalize(x, dim=2) - F.normalize(y, dim=2)).square().sum(2), real)


def squared(x: Float[Tensor, "b n c"], y: Float[Tensor, "b n c"], real: Float[Tensor, "b n"]) -> Tensor:
    """Half the squared distance, averaged over channels and real positions, then samples."""
    return _by_position(0.5 * (x - y).square().mean(2), real)


def _by_position(apart: Float[Tensor, "b n"], real: Float[Tensor, "b n"]) -> Tensor:
    return ((apart * real).sum(1) / real.sum(1).clamp_min(1.0)).mean()
