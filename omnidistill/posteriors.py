"""What a denoiser returns: a belief about the clean sample. A point (the posterior mean) or a categorical per token.

Objectives are written against the methods below, never against the class: that is what lets one implementation
of a family serve latents, coordinates and tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.random import categorical

P = TypeVar("P", bound="Posterior")

IMPOSSIBLE = -1e4
"""Logit of a token that is ruled out. Finite, so that a weight or mask of zero really removes it (0 * -inf is NaN);
`exp` of it is exactly 0 in every floating-point format."""


class Posterior(Protocol):
    """A belief about x0 given x_t. `parameters` is the tensor that gradients are taken with respect to."""

    @property
    def parameters(self) -> Tensor: ...
    def replace(self: P, parameters: Tensor) -> P:
        """The same kind of belief with other parameters."""
        ...

    def sample(self, g: torch.Generator | None = None, mask: Tensor | None = None) -> Tensor:
        """One x0 from the belief; a point answers with its mean, so the gradient flows where one exists."""
        ...

    def divergence(self: P, target: P, kind: str = "nll", mask: Tensor | None = None) -> Tensor:
        """Per element of x0, unreduced: how far this belief is from `target`. `nll` fits both kinds of belief.

        `mask` is needed by kinds that look at a sample as a whole: padding must not count as dimensions of it."""
        ...

    def pull(self, direction: Tensor) -> Tensor:
        """Per-element loss whose gradient with respect to `parameters` is `direction`."""
        ...

    def gap(self: P, real: P, kind: str = "forward") -> Tensor:
        """The direction that leads from `real` to this belief, in the space of `parameters`."""
        ...

    def distance(self, x0: Tensor) -> Tensor:
        """Per element: the mean absolute difference between x0 and this belief; the scale of `gap`."""
        ...

    def blend(self: P, other: P, weight: Tensor) -> P:
        """`weight * self + (1 - weight) * other`, per element of x0, weight in [0, 1]."""
        ...

    def guide(self: P, unconditional: P, scale: Tensor) -> P:
        """Classifier-free guidance `u + s (c - u)`; s = 1 is no guidance (Ho & Salimans 2022, with s = 1 + w)."""
        ...


def detach(belief: P) -> P:
    """The same belief, cut from the graph."""
    return belief.replace(belief.parameters.detach())


def split(belief: P, sizes: int) -> tuple[P, ...]:
    """The belief of a batch as beliefs of consecutive parts of `sizes` samples each."""
    return tuple(belief.replace(part) for part in belief.parameters.split(sizes))


def _towards(parameters: Tensor, direction: Tensor) -> Tensor:
    # 1/2 ||(p - sg p) + sg d||^2 has the value ||d||^2 / 2, which is worth logging, and the gradient d. In this order
    # nothing is lost to rounding when d is far smaller than p, as it is late in training.
    return 0.5 * (parameters - parameters.detach() + direction.detach()) ** 2


def _like(scale: Tensor | float, parameters: Tensor) -> Tensor:
    scale = torch.as_tensor(scale, dtype=parameters.dtype, device=parameters.device)
    return scale.reshape(scale.shape + (1,) * (parameters.ndim - scale.ndim))


def _pseudo_huber(error: Tensor, mask: Tensor | None = None) -> Tensor:
    """`sqrt(|e|^2 + c^2) - c` over the sample as a vector, c = 0.00054 sqrt(dim) (Song & Dhariwal 2023).

    Spread evenly over the real elements, so that their mean over a sample is the vector's value over dim; dim
    counts real elements only.
    """
    real = torch.ones_like(error) if mask is None else mask.expand_as(error).to(error.dtype)
    dim = real.flatten(1).sum(1).clamp_min(1.0)
    c = 0.00054 * dim.sqrt()
    norm = torch.sqrt((error * real).flatten(1).square().sum(1) + c * c) - c
    return _like(norm / dim, error) * real


@dataclass(frozen=True)
class PointPosterior:
    """The posterior mean `E[x0 | x_t]`, `mean: Float[b ...]`."""

    mean: Tensor

    @property
    def parameters(self) -> Tensor:
        return self.mean

    def replace(self, parameters: Tensor) -> PointPosterior:
        return PointPosterior(parameters)

    def sample(self, g: torch.Generator | None = None, mask: Tensor | None = None) -> Tensor:
        return self.mean

    def divergence(self, target: PointPosterior, kind: str = "nll", mask: Tensor | None = None) -> Tensor:
        """`nll`/`l2`: 1/2 (a - b)^2. `l1`: |a - b|. `huber`: pseudo-Huber of the sample as a vector."""
        kinds: dict[str, Callable[[Tensor], Tensor]] = {
            "nll": lambda e: 0.5 * e * e,
            "l2": lambda e: 0.5 * e * e,
            "l1": torch.abs,
            "huber": lambda e: _pseudo_huber(e, mask),
        }
        if kind not in kinds:
            raise unknown("divergence between points", kind, kinds)
        return kinds[kind](self.mean - target.mean)

    def pull(self, direction: Tensor) -> Tensor:
        return _towards(self.mean, direction)

    def gap(self, real: PointPosterior, kind: str = "forward") -> Tensor:
        """`D_fake - D_real`: the gradient of 1/2 |D_fake - D_real|^2 with respect to D_fake, for every kind."""
        return self.mean - real.mean

    def distance(self, x0: Tensor) -> Tensor:
        return (x0 - self.mean).abs()

    def blend(self, other: PointPosterior, weight: Tensor) -> PointPosterior:
        return PointPosterior(
            torch.lerp(other.mean, self.mean, _like(weight, self.mean).expand_as(self.mean))
        )

    def guide(self, unconditional: PointPosterior, scale: Tensor) -> PointPosterior:
        return PointPosterior(unconditional.mean + _like(scale, self.mean) * (self.mean - unconditional.mean))


@dataclass(frozen=True)
class CategoricalPosterior:
    """Independent categoricals, one per token: `logits: Float[b n k]`, not necessarily normalised."""

    logits: Tensor

    @property
    def parameters(self) -> Tensor:
        return self.logits

    @property
    def log_probs(self) -> Tensor:
        return F.log_softmax(self.logits, -1)

    @property
    def probs(self) -> Tensor:
        return F.softmax(self.logits, -1)

    def replace(self, parameters: Tensor) -> CategoricalPosterior:
        return CategoricalPosterior(parameters)

    def sample(self, g: torch.Generator | None = None, mask: Tensor | None = None) -> Tensor:
        return categorical(F.softmax(self.logits.detach().double(), -1), g, mask)

    def divergence(
        self, target: CategoricalPosterior, kind: str = "nll", mask: Tensor | None = None
    ) -> Tensor:
        """Per token, in nats, p = target and q = self.

        `nll`: cross-entropy -sum p log q. `forward`: KL(p||q). `backward`: KL(q||p). `jsd`: Jensen-Shannon.
        `tv`: total variation. `l2`: half the squared distance of log-probabilities.
        """
        log_q, log_p = self.log_probs, target.log_probs
        if kind == "nll":
            return -(log_p.exp() * log_q).sum(-1)
        if kind == "forward":
            return _kl(log_p, log_q)
        if kind == "backward":
            return _kl(log_q, log_p)
        if kind == "jsd":
            log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
            return 0.5 * (_kl(log_p, log_m) + _kl(log_q, log_m))
        if kind == "tv":
            return 0.5 * (log_q.exp() - log_p.exp()).abs().sum(-1)
        if kind == "l2":
            return 0.5 * (log_q - log_p).square().sum(-1)
        raise unknown(
            "divergence between categoricals", kind, ("nll", "forward", "backward", "jsd", "tv", "l2")
        )

    def pull(self, direction: Tensor) -> Tensor:
        return _towards(self.logits, direction).sum(-1)

    def gap(self, real: CategoricalPosterior, kind: str = "forward") -> Tensor:
        """Gradient on the logits of this belief f of a divergence to `real` T (Zhu et al. 2025, Di[M]O).

        `forward`: KL(T||f) gives `p_f - p_T`. `reverse`: KL(f||T) gives `p_f (log p_f/p_T - KL(f||T))`.
        """
        if kind == "forward":
            return self.probs - real.probs
        if kind == "reverse":
            ratio = self.log_probs - real.log_probs
            return self.probs * (ratio - (self.probs * ratio).sum(-1, keepdim=True))
        raise unknown("gap between categoricals", kind, ("forward", "reverse"))

    def distance(self, x0: Tensor) -> Tensor:
        """Total variation between the certain belief in x0 and this one: `1 - p(x0)`."""
        return 1.0 - self.probs.gather(-1, x0.unsqueeze(-1)).squeeze(-1)

    def blend(self, other: CategoricalPosterior, weight: Tensor) -> CategoricalPosterior:
        weight = weight.to(self.logits.dtype)
        if weight.ndim < self.logits.ndim:
            weight = weight.reshape(weight.shape + (1,) * (self.logits.ndim - weight.ndim))
        # In log space: the logarithm of a mixed probability of exactly 0 would send NaN backwards.
        return CategoricalPosterior(
            torch.logaddexp(weight.log() + self.log_probs, (1 - weight).log() + other.log_probs)
        )

    def guide(self, unconditional: CategoricalPosterior, scale: Tensor) -> CategoricalPosterior:
        base = unconditional.log_probs
        return CategoricalPosterior(base + _like(scale, self.logits) * (self.log_probs - base))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def certain(x0: Tensor, classes: int | None = None) -> Posterior:
    """The belief that x0 is exactly this: a point for real numbers, a one-hot categorical for tokens."""
    if classes is None:
        return PointPosterior(x0)
    if x0.is_floating_point():
        raise UserError(f"tokens must be integers, got {x0.dtype}; pass token ids of shape (batch, length)")
    return CategoricalPosterior((1.0 - F.one_hot(x0, classes).to(torch.float32)) * IMPOSSIBLE)
