"""The contract of a belief, and what every kind of belief shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.shapes import Mask, Real, State, Time, Weight

if TYPE_CHECKING:
    from omnidistill.paths import Path

P = TypeVar("P", bound="Posterior")


class Posterior(Protocol):
    """A belief about x0 given x_t. `parameters` is the tensor that a network answered and gradients flow into."""

    @property
    def parameters(self) -> Tensor:
        """The one tensor that the belief is made of: means, logits, or what a network gave for a mixture."""
        ...

    def replace(self: P, parameters: Tensor) -> P:
        """The same kind of belief with other parameters."""
        ...

    def __getitem__(self: P, rows: slice) -> P:
        """The belief about some samples of the batch."""
        ...

    def sample(self, g: torch.Generator | None = None, mask: Mask | None = None) -> State:
        """One x0 from the belief; a point answers with its mean, so the gradient flows where one exists."""
        ...

    def log_prob(self, x0: State) -> Real:
        """Per element of x0: log-likelihood of x0, in nats. It is minus the `nll` of `certain(x0)`; of a point, which
        has no spread, it is that of a unit normal without its constant, `-1/2 (x0 - mean)^2`."""
        ...

    def divergence(self: P, target: P, kind: str = "nll", mask: Mask | None = None) -> Real:
        """Per element of x0, unreduced: how far this belief is from `target`. `nll` fits every kind of belief.

        `mask` is needed by kinds that look at a sample as a whole: padding must not count as dimensions of it."""
        ...

    def pull(self, direction: Tensor, weight: Weight = 1.0) -> Real:
        """Per-element loss whose gradient with respect to what `gap` is measured in is `weight * direction`."""
        ...

    def gap(self: P, real: P, kind: str = "forward") -> Tensor:
        """The direction that leads from `real` to this belief: of points and mixtures in the space of x0, of tokens in
        that of the logits."""
        ...

    def distance(self, x0: State) -> Real:
        """Per element: the mean absolute difference between x0 and this belief; the scale of `gap`."""
        ...

    def blend(self: P, other: P, weight: Weight) -> P:
        """`weight * self + (1 - weight) * other`, per element of x0, weight in [0, 1]."""
        ...

    def guide(self: P, unconditional: P, scale: Weight) -> P:
        """Classifier-free guidance `u + s (c - u)`; s = 1 is no guidance (Ho & Salimans 2022, with s = 1 + w)."""
        ...

    def after(self: P, x_r: State, r: Time, path: Path) -> P:
        """The belief at a later state x_r of the same trajectory, r <= t, without another network call: what this one
        implies about x0 now that x_r is known. A point and a categorical imply nothing new and stay as they are."""
        ...


def detach(belief: P) -> P:
    """The same belief, cut from the graph."""
    return belief.replace(belief.parameters.detach())


def split(belief: P, sizes: int) -> tuple[P, ...]:
    """The belief of a batch as beliefs of consecutive parts of `sizes` samples each."""
    return tuple(
        belief[start : start + sizes] for start in range(0, int(belief.parameters.shape[0]), int(sizes))
    )


def towards(values: Real, direction: Real) -> Real:
    """1/2 d^2 for each element of a direction d, with the gradient d with respect to `values`."""
    # 1/2 ||(p - sg p) + sg d||^2 has the value ||d||^2 / 2, which is worth logging, and the gradient d. In this order
    # nothing is lost to rounding when d is far smaller than p, as it is late in training.
    return 0.5 * (values - values.detach() + direction.detach()) ** 2


def like(scale: Weight, values: Any) -> Float[Tensor, "..."]:
    """A number, or one for each of some leading axes, shaped to broadcast against `values`, in its dtype."""
    scale = torch.as_tensor(scale, dtype=values.dtype, device=values.device)
    return scale.reshape(scale.shape + (1,) * (values.ndim - scale.ndim))
