"""The isotropic Gaussian mixture seen through Gaussian noise: its density and posterior mean, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from omnidistill.random import categorical
from omnidistill.shapes import Labels

Scale = Float[Tensor, ""] | Float[Tensor, "#b"]


@dataclass(frozen=True)
class Mixture:
    """`sum_k w_k N(mu_k, std^2 I)`, in float64.

    Noised, `x_t = alpha x0 + sigma eps`, it is `sum_k w_k N(alpha mu_k, v I)`, `v = alpha^2 std^2 + sigma^2`.

    Attributes:
        std: above 0.
        weights: above 0, sum 1.
        labels: the class label of each component, 0 up to the number of labels; None: each has its own.
    """

    means: Float64[Tensor, "k d"]
    std: float
    weights: Float64[Tensor, "k"]
    labels: Labels | None = None

    @property
    def count(self) -> int:
        return len(self.means)

    @property
    def null(self) -> int:
        """The label that says nothing, which is also the number of labels."""
        return self.count if self.labels is None else int(self.labels.max()) + 1

    def label(self, component: Labels) -> Labels:
        """The label of each component."""
        return component if self.labels is None else self.labels.to(component.device)[component]

    def shares(self, labels: Labels) -> Float64[Tensor, "b k"]:
        """`p(component | label)`."""
        own = self.label(torch.arange(self.count, device=labels.device))
        allowed = (labels.unsqueeze(1) == own) | (labels.unsqueeze(1) == self.null)
        weights = torch.where(allowed, self.weights.to(labels.device), 0.0)
        return weights / weights.sum(1, keepdim=True)

    @property
    def dim(self) -> int:
        """The number of coordinates, d."""
        return self.means.shape[1]

    def scale(self) -> float:
        """`sqrt(E|x0|^2 / d)`: the sigma_data with which `edm` has inputs and targets of unit second moment."""
        return math.sqrt(float(self.weights @ self.means.square().sum(1)) / self.dim + self.std**2)

    def sample(self, labels: Labels, g: torch.Generator | None) -> tuple[Float64[Tensor, "b d"], Labels]:
        """(x0, component), the component one that has the label; of the label `null`, any."""
        component = categorical(self.shares(labels.cpu()), g).to(labels.device)
        noise = torch.randn(
            len(labels), self.dim, generator=g, dtype=torch.float64, device=g.device if g else None
        )
        return self.means[component.cpu()] + self.std * noise.cpu(), component

    def log_joint(
        self, x: Float[Tensor, "b d"], alpha: Scale, sigma: Scale, labels: Labels | None = None
    ) -> Float64[Tensor, "b k"]:
        """`log w_k N(x; alpha mu_k, v I)`.

        With labels only components that have it are possible, and `w_k` is the share within them (`shares`).
        """
        x, means = x.double(), self.means.to(x.device)
        alpha, sigma = (c.to(x.device).reshape(-1, 1) for c in (alpha, sigma))
        variance = (alpha * self.std) ** 2 + sigma**2
        square = (x.unsqueeze(1) - alpha.unsqueeze(2) * means).square().sum(2)
        log_weights = self.weights.log().to(x.device) if labels is None else self.shares(labels).log()
        return log_weights - 0.5 * (square / variance + self.dim * torch.log(2 * math.pi * variance))

    def log_density(
        self, x: Float[Tensor, "b d"], alpha: Scale, sigma: Scale, labels: Labels | None = None
    ) -> Float64[Tensor, "b"]:
        """`log p_t(x)`."""
        return self.log_joint(x, alpha, sigma, labels).logsumexp(1)

    def posterior_mean(
        self, x: Float[Tensor, "b d"], alpha: Scale, sigma: Scale, labels: Labels | None = None
    ) -> Float64[Tensor, "b d"]:
        """`E[x0 | x_t] = sum_k r_k (mu_k + alpha std^2 / v (x - alpha mu_k))` with the
        responsibilities `r_k = softmax_k log_joint`. Regular at alpha = 0 and at sigma = 0, not at both."""
        responsibility = self.log_joint(x, alpha, sigma, labels).softmax(1)
        centre = responsibility @ self.means.to(x.device)
        alpha, sigma = (c.to(x.device).reshape(-1, 1) for c in (alpha, sigma))
        gain = alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2)
        return centre + gain * (x.double() - alpha * centre)

    def radius(self) -> float:
        """The radius of the ball around a mean that holds 99.9 % of its component."""
        from scipy.special import chdtri

        return self.std * math.sqrt(float(chdtri(self.dim, 1e-3)))

    def modes(self, x: Float[Tensor, "n d"]) -> dict[str, float]:
        """How x spreads over the components.

        A sample's share of a component is its responsibility: the expectation under the mixture is then exactly the
        weight, however the components overlap. A sample farther than `radius` from every mean is astray, and beyond
        the radius of a component it does not count for that component's recall.

        Returns:
            modes_recalled: components whose share is at least 20 % of their weight, over k.
            heavy_modes_recalled: the same among components of weight >= 5 % (all, where none is that heavy).
            stray: share of samples astray; 0.001 or less for the mixture itself.
            weights_tv: total variation between the mean responsibilities and the weights.
        """
        at_data = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        responsibility = self.log_joint(x, *at_data).softmax(1)
        inside = torch.cdist(x.double(), self.means.to(x.device)) <= self.radius()
        weights = self.weights.to(x.device)
        recalled = ((responsibility * inside).mean(0) >= 0.2 * weights).double()
        heavy = weights >= 0.05
        return {
            "modes_recalled": float(recalled.mean()),
            "heavy_modes_recalled": float(recalled[heavy].mean() if bool(heavy.any()) else recalled.mean()),
            "stray": float((~inside.any(1)).double().mean()),
            "weights_tv": float(0.5 * (responsibility.mean(0) - weights).abs().sum()),
        }
