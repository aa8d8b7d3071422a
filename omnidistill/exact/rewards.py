"""Rewards of exact tasks, whose best answers and expectations are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omnidistill.context import Context


class Towards:
    """`-|x0 - point|^2 / 2`, highest at a point. Over data N(m, v) tilted by `exp(R / k)` it has a Gaussian optimum.

    Args:
        point: of the first so many coordinates; the others are free.
    """

    def __init__(self, point: Sequence[float]) -> None:
        self.point = tuple(float(value) for value in point)

    def __call__(self, x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        point = torch.tensor(self.point, dtype=x0_hat.dtype, device=x0_hat.device)
        return -0.5 * (x0_hat.flatten(1)[:, : len(point)] - point).square().sum(1)


class Half:
    """1 on one side of a plane, `<direction, x0> > offset`, else 0: nothing that can be differentiated.

    Args:
        direction: in the first so many coordinates.
    """

    def __init__(self, direction: Sequence[float], offset: float = 0.0) -> None:
        self.direction, self.offset = tuple(float(value) for value in direction), offset

    def __call__(self, x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        direction = torch.tensor(self.direction, dtype=x0_hat.dtype, device=x0_hat.device)
        return (x0_hat.flatten(1)[:, : len(direction)] @ direction > self.offset).to(x0_hat.dtype)


class Count:
    """The share of a sample's tokens that are this one, padding left out."""

    def __init__(self, token: int = 0) -> None:
        self.token = token

    def __call__(self, x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        hit = (x0_hat == self.token).float()
        if context.mask is None:
            return hit.mean(1)
        return (hit * context.mask).sum(1) / context.mask.sum(1).clamp_min(1)


class Nearest:
    """`-min_k |x0 - point_k|^2 / 2`: how near a sample is to any of some points, such as the modes of its data."""

    def __init__(self, points: Sequence[Sequence[float]]) -> None:
        self.points = [tuple(float(value) for value in point) for point in points]

    def __call__(self, x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        points = torch.tensor(self.points, dtype=x0_hat.dtype, device=x0_hat.device)
        apart = x0_hat.flatten(1)[:, None] - points
        return -0.5 * apart.square().sum(2).min(1).values


class Extent:
    """Root of the mean squared distance of a cloud's points from their centre: no pose changes it.

    Args:
        sign: -1 rewards small clouds.
    """

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = float(sign)

    def __call__(self, x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        apart = x0_hat - x0_hat.mean(1, keepdim=True)
        return self.sign * apart.square().sum(2).mean(1).clamp_min(1e-12).sqrt()


class Apart:
    """1 for clouds of which two points lie further apart than `least`, else 0: no pose changes it, and shapes differ
    by it.

    Args:
        points: which two.
    """

    def __init__(self, points: Sequence[int], least: float) -> None:
        self.first, self.second = points
        self.least = float(least)

    def __call__(self, x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        apart = (x0_hat[:, self.first] - x0_hat[:, self.second]).square().sum(1).sqrt()
        return (apart > self.least).to(x0_hat.dtype)
