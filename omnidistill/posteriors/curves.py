"""Beliefs that are curves of time: points whose mean at every later time was said at once.

Together with a `MixturePosterior` they are policies: what a network says once about a whole segment of a trajectory, to
be followed in small steps without asking it again (Chen et al. 2025, pi-Flow, arXiv:2510.14974).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.posteriors.base import like
from omnidistill.posteriors.points import PointPosterior
from omnidistill.shapes import Mask, Time, Times, Weight

if TYPE_CHECKING:
    from omnidistill.paths import Path

State = Float[Tensor, "b c *positions"]


class Curve:
    """What both kinds share: everything but their `mean` is that of a point. Two curves have no curve between them, so
    `blend` and `guide` answer with points."""

    parameters: Float[Tensor, "b parts *positions"]
    mean: State
    exact: ClassVar[bool] = False
    """Whether `onwards` is exact over any length."""

    def replace(self, parameters: Float[Tensor, "b parts *positions"]) -> Any:
        """The curve of other parameters, at the same state and time."""
        return replace(self, parameters=parameters)  # type: ignore[type-var]

    def _point(self) -> PointPosterior:
        return PointPosterior(self.mean)

    def sample(self, g: torch.Generator | None = None, mask: Mask | None = None) -> State:
        """The mean."""
        return self.mean

    def log_prob(self, x0: State) -> State:
        """As of a point."""
        return self._point().log_prob(x0)

    def divergence(self, target: Any, kind: str = "nll", mask: Mask | None = None) -> State:
        """As of a point."""
        return self._point().divergence(target, kind, mask)

    def pull(self, direction: State, weight: Weight = 1.0) -> State:
        """As of a point."""
        return self._point().pull(direction, weight)

    def gap(self, real: Any, kind: str = "forward") -> State:
        """As of a point."""
        return self._point().gap(real, kind)

    def distance(self, x0: State) -> State:
        """As of a point."""
        return self._point().distance(x0)

    def blend(self, other: Any, weight: Weight) -> PointPosterior:
        """The point between the means."""
        return self._point().blend(other, weight)

    def guide(self, unconditional: Any, scale: Weight) -> PointPosterior:
        """The guided mean, a point."""
        return self._point().guide(unconditional, scale)


@dataclass(frozen=True)
class GridPosterior(Curve):
    """x0 at `nodes` times even between `start` and `end`, on straight lines between them, whatever the state (the DX
    policy of pi-Flow). One node is a point.

    Attributes:
        parameters: the x0 of each node, one after another along the channels.
        nodes: their number.
        start, end: the times of the first and the last node, start > end.
        t: where on the curve the belief is.
    """

    parameters: Float[Tensor, "b parts *positions"]
    nodes: int
    start: Times
    end: Times
    t: Times

    @property
    def mean(self) -> State:  # type: ignore[override]
        """x0 at t."""
        return self._at(self.t)

    def _at(self, t: Times) -> State:
        points = self.parameters.unflatten(1, (self.nodes, -1))
        place = ((self.start - t) / (self.start - self.end)).nan_to_num(0.0).clamp(0.0, 1.0) * (
            self.nodes - 1
        )
        # A hat around each node: what is not beside t has no weight.
        hats = [(1.0 - (place - k).abs()).clamp_min(0.0) for k in range(self.nodes)]
        return sum(like(hat, points[:, k]) * points[:, k] for k, hat in enumerate(hats))

    def __getitem__(self, rows: slice) -> GridPosterior:
        start, end, t = (time[rows] if time.ndim else time for time in (self.start, self.end, self.t))
        return GridPosterior(self.parameters[rows], self.nodes, start, end, t)

    def after(self, x_r: State, r: Time, path: Path) -> GridPosterior:
        """The same curve at r."""
        return replace(self, t=torch.as_tensor(r, dtype=torch.float64, device=x_r.device))

    def onwards(self, x: State, u: Times, v: Times, path: Path) -> State:
        """The trajectory through x at u, at v, in one jump by the curve's mean over the way: exact on a rectified flow
        if no node lies between, of second order elsewhere.

        A jump is linear in alpha/sigma, `d(x/sigma) = D d(alpha/sigma)`. With alpha and sigma linear in t the
        right-hand side is `D dt / sigma^2`, and the mean of a D that is linear in t is D where sigma is
        `sigma_u sigma_v log(sigma_u / sigma_v) / (sigma_u - sigma_v)`.
        """
        sigma_u, sigma_v = (path.coefficients(time).sigma for time in (u, v))  # type: ignore[attr-defined]
        ratio = sigma_v / sigma_u
        tiny = ratio.clamp_min(1e-300)
        # Of a step of no length it is the middle.
        log_mean = torch.where(
            (1 - ratio).abs() < 1e-6, 0.5 * (1 + ratio), -tiny * tiny.log() / (1 - ratio + 1e-300)
        )
        share = torch.where(ratio < 1, (log_mean - ratio) / (1 - ratio).clamp_min(1e-300), 0.5)
        mean = self._at(v + share.clamp(0.0, 1.0) * (u - v))
        return path.bridge(x, mean, u, v)


@dataclass(frozen=True)
class ArcPosterior(Curve):
    """A velocity that is a mixture of exponentials of time, whatever the state (Yang et al. 2026, ArcFlow,
    arXiv:2602.09014): `v(r) = sum_k w_k mu_k exp(gamma_k (start - r))`, w = softmax, gamma_1 = 0.

    Attributes:
        parameters: k (c + 2) channels: k velocities of c channels, k logits of w, k rates gamma.
        components: k.
        start: the time from which rates count.
        x, t: where on the trajectory the belief is.
        path: its path, which turns a velocity into an x0.
    """

    parameters: Float[Tensor, "b parts *positions"]
    components: int
    start: Times
    x: State
    t: Times
    path: Any
    exact: ClassVar[bool] = True

    def _parts(self) -> tuple[Tensor, Tensor]:
        """(w mu, gamma), shaped [b k c ...] and [b k 1 ...]."""
        k = self.components
        channels = self.parameters.shape[1] // k
        mu, logits, rates = self.parameters.split((k * (channels - 2), k, k), 1)
        moving = torch.ones(k, dtype=rates.dtype, device=rates.device)
        moving[0] = 0.0
        rates = rates * moving.reshape(1, k, *(1 for _ in rates.shape[2:]))
        return logits.softmax(1).unsqueeze(2) * mu.unflatten(1, (k, channels - 2)), rates.unsqueeze(2)

    @property
    def velocity(self) -> State:
        """v at t."""
        mu, rates = self._parts()
        return (mu * (rates * like(self.start - self.t, rates)).exp()).sum(1)

    @property
    def mean(self) -> State:  # type: ignore[override]
        """The x0 that the velocity points along: `path.velocity` solved for it; at t = 0 the state itself."""
        t = torch.where(self.t == 0, self.path.span[0], self.t)
        alpha, _, sigma = self.path.coefficients(t)
        alpha_rate, _, sigma_rate = self.path.rates(t)
        k = sigma_rate / sigma
        a = alpha_rate - k * alpha
        point = (self.velocity - like(k, self.x) * self.x) / like(a, self.x)
        return torch.where(like(self.t, self.x) == 0, self.x, point)

    def __getitem__(self, rows: slice) -> ArcPosterior:
        start, t = (time[rows] if time.ndim else time for time in (self.start, self.t))
        return replace(self, parameters=self.parameters[rows], start=start, x=self.x[rows], t=t)

    def after(self, x_r: State, r: Time, path: Path) -> ArcPosterior:
        """The same curve at r, on a trajectory through x_r."""
        return replace(self, x=x_r, t=torch.as_tensor(r, dtype=torch.float64, device=x_r.device))

    def onwards(self, x: State, u: Times, v: Times, path: Path) -> State:
        """The trajectory through x at u, at v: `x - sum_k w_k mu_k int_v^u exp(gamma_k (start - r)) dr`, exactly."""
        mu, rates = self._parts()
        width = like(u - v, rates)
        turn = rates * width
        # expm1(z) / z, whose value at 0 is 1.
        near = turn.abs() < 1e-4
        safe = torch.where(near, 1.0, turn)
        mean = torch.where(near, 1.0 + 0.5 * turn, torch.expm1(safe) / safe)
        return x - (mu * (rates * like(self.start - u, rates)).exp() * width * mean).sum(1)
