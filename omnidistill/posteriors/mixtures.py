"""A Gaussian mixture per position: a belief with a spread, which can be asked again at a later state without a call."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.posteriors.base import like, towards
from omnidistill.random import categorical, normal
from omnidistill.shapes import Mask, Time, Times, Weight

if TYPE_CHECKING:
    from omnidistill.paths import Path

State = Float[Tensor, "b c *positions"]
Means = Float[Tensor, "b k c *positions"]
Weights = Float[Tensor, "b k *positions"]


@dataclass(frozen=True)
class MixturePosterior:
    """`q(x0 | x_t) = sum_k w_k N(mu_k, s_k^2 I)` over the c channels of every position of x0; positions are independent
    (Chen et al. 2025, GMFlow). For vectors there is one position.

    Attributes:
        parameters: a network's output of k (c + 2) channels: k means of c channels, k logits of the weights, k
            logarithms of the standard deviations.
        components: k.
        x_t, t: the state and time that the question was about, needed by `after` alone.
    """

    parameters: Float[Tensor, "b parts *positions"]
    components: int
    x_t: State | None = None
    t: Times | None = None

    @classmethod
    def of(
        cls,
        means: Means,
        log_weights: Weights,
        log_std: Weights,
        x_t: State | None = None,
        t: Times | None = None,
    ) -> MixturePosterior:
        """From its parts; weights and standard deviations by their logarithms."""
        packed = torch.cat((means.flatten(1, 2), log_weights, log_std), 1)
        return cls(packed, means.shape[1], x_t, t)

    def _parts(self) -> tuple[Means, Weights, Weights]:
        """(means, log w, log s)."""
        k = self.components
        channels, rest = divmod(self.parameters.shape[1], k)
        if rest or channels < 3:
            raise UserError(
                f"a mixture of {k} components of c channels has {k} * (c + 2) parameters, "
                f"got {self.parameters.shape[1]}"
            )
        means, weights, log_std = self.parameters.split((k * (channels - 2), k, k), 1)
        return means.unflatten(1, (k, channels - 2)), weights.log_softmax(1), log_std

    @property
    def mean(self) -> State:
        """`sum_k w_k mu_k`."""
        means, log_w, _ = self._parts()
        return (log_w.exp().unsqueeze(2) * means).sum(1)

    @property
    def exact(self) -> bool:
        """Whether `onwards` is exact over any length."""
        return self.components == 1

    @property
    def variance(self) -> Float[Tensor, "b 1 *positions"]:
        """The mean variance of a channel: of the components' spread and of their means around the mean."""
        means, log_w, log_std = self._parts()
        apart = (means - self.mean.unsqueeze(1)).square().mean(2)
        return (log_w.exp() * ((2.0 * log_std).exp() + apart)).sum(1, keepdim=True)

    def replace(self, parameters: Float[Tensor, "b parts *positions"]) -> MixturePosterior:
        return replace(self, parameters=parameters)

    def __getitem__(self, rows: slice) -> MixturePosterior:
        x_t = None if self.x_t is None else self.x_t[rows]
        t = None if self.t is None else self.t[rows] if self.t.ndim else self.t
        return MixturePosterior(self.parameters[rows], self.components, x_t, t)

    def sample(self, g: torch.Generator | None = None, mask: Mask | None = None) -> State:
        """A draw; the gradient flows through the chosen component's mean and spread, not through the choice."""
        means, log_w, log_std = self._parts()
        probs = log_w.detach().double().exp().movedim(1, -1)
        # One choice a position: drawn where any channel of it is real.
        real = None if mask is None else mask.expand_as(means[:, 0]).any(1)
        chosen = categorical(probs, g, real).unsqueeze(1)
        mu = means.gather(1, chosen.unsqueeze(2).expand_as(means[:, :1])).squeeze(1)
        return mu + log_std.gather(1, chosen).exp() * normal(mu, g, mask)

    def log_prob(self, x0: State) -> State:
        """The log-density of a position, shared out evenly over its channels: their sum is the joint one."""
        means, log_w, log_std = self._parts()
        c = means.shape[2]
        square = (x0.unsqueeze(1) - means).square().sum(2)
        log_normal = -0.5 * square * (-2.0 * log_std).exp() - c * (log_std + 0.5 * math.log(2 * math.pi))
        return ((log_w + log_normal).logsumexp(1) / c).unsqueeze(1).expand_as(x0)

    def divergence(self, target: object, kind: str = "nll", mask: Mask | None = None) -> State:
        """`nll`: minus the log-density of the target's mean (of a point: x0 itself). `l2`: half the squared distance of
        the means."""
        mean: State = target.mean  # type: ignore[attr-defined]
        if kind == "nll":
            return -self.log_prob(mean)
        if kind == "l2":
            return 0.5 * (self.mean - mean).square()
        raise unknown("divergence of a mixture", kind, ("nll", "l2"))

    def pull(self, direction: State, weight: Weight = 1.0) -> State:
        return towards(self.mean, like(weight, direction) * direction)

    def gap(self, real: MixturePosterior, kind: str = "forward") -> State:
        return self.mean - real.mean

    def distance(self, x0: State) -> State:
        return (x0 - self.mean).abs()

    def blend(self, other: MixturePosterior, weight: Weight) -> MixturePosterior:
        """A mixture of both beliefs' components; weight is a number, one a sample, or one a position, [b 1 ...]."""
        (mean_a, log_a, std_a), (mean_b, log_b, std_b) = self._parts(), other._parts()
        tiny = torch.finfo(log_a.dtype).tiny
        w = like(weight, log_a).clamp(tiny, 1.0)
        rest = (1.0 - like(weight, log_a)).clamp_min(tiny)
        log_w = torch.cat((w.log() + log_a, rest.log() + log_b), 1)
        return MixturePosterior.of(
            torch.cat((mean_a, mean_b), 1), log_w, torch.cat((std_a, std_b), 1), self.x_t, self.t
        )

    def guide(self, unconditional: MixturePosterior, scale: Weight) -> MixturePosterior:
        """The conditional mixture moved as a whole, so that its mean is the guided one; its spread stays."""
        means, log_w, log_std = self._parts()
        move = (like(scale, self.mean) - 1.0) * (self.mean - unconditional.mean)
        return MixturePosterior.of(means + move.unsqueeze(1), log_w, log_std, self.x_t, self.t)

    def after(self, x_r: State, r: Time, path: Path) -> MixturePosterior:
        """`q(x0 | x_r) ~ q(x0 | x_t) p(x_r | x0) / p(x_t | x0)`, again a mixture (Chen et al. 2025, pi-Flow).

        With `l = alpha_r^2/sigma_r^2 - alpha_t^2/sigma_t^2 >= 0` and `h = alpha_r x_r/sigma_r^2 -
        alpha_t x_t/sigma_t^2` each component has the precision `1/s^2 + l`, the mean `(mu + s^2 h) / (1 + s^2 l)` and
        the weight `w (1 + s^2 l)^(-c/2) exp(-(l |mu|^2 - 2 h mu - s^2 |h|^2) / (2 (1 + s^2 l)))`. Computed in float64.
        If q is the true belief at t, this is the true one at r.
        """
        if self.x_t is None or self.t is None:
            raise UserError(
                "a mixture must know the state and time it is about: give x_t and t to be asked again"
            )
        if "gaussian" not in path.offers or "anchored" in path.offers:
            raise UserError(f"a mixture is asked again on Gaussian paths without an anchor, got {path}")
        means, log_w, log_std = (part.double() for part in self._parts())
        c = means.shape[2]
        at = torch.as_tensor(r, dtype=torch.float64, device=means.device)
        a_r, s_r = _coefficients(path, at, means)
        a_t, s_t = _coefficients(path, self.t, means)
        x, x_r_ = self.x_t.double().unsqueeze(1), x_r.double().unsqueeze(1)
        precision = a_r**2 / s_r**2 - a_t**2 / s_t**2
        pull = a_r * x_r_ / s_r**2 - a_t * x / s_t**2
        variance = (2.0 * log_std).exp().unsqueeze(2)
        shrink = 1.0 + variance * precision
        mean = (means + variance * pull) / shrink
        energy = precision * means.square() - 2.0 * pull * means - variance * pull.square()
        shrunk = shrink.squeeze(2).log()
        log_w = log_w - 0.5 * (energy / shrink).sum(2) - 0.5 * c * shrunk
        dtype = self.parameters.dtype
        log_std = log_std - 0.5 * shrunk
        return MixturePosterior.of(mean.to(dtype), log_w.log_softmax(1).to(dtype), log_std.to(dtype), x_r, at)

    def onwards(self, x: State, u: Time, v: Time, path: Path) -> State:
        """The deterministic trajectory through x at u, at v <= u, in one jump by this belief as it is at u: exact for
        one component, of any length.

        For a belief N(m, s^2) the trajectory is that of a Gaussian. With `l` as in `after` and
        `k = (sigma_v / sigma_u) sqrt(1 + s^2 l)`,

            `x_v = k x + sigma_v^2 l (m - s^2 alpha_u x / sigma_u^2) / (alpha_v + k alpha_u)`,

        which is DDIM's jump for s = 0. A mixture jumps as the Gaussian of its mean and variance. In float64.
        """
        here = self.after(x, u, path)
        mean, variance, x_ = here.mean.double(), here.variance.double(), x.double()
        (a_u, _, s_u), (a_v, _, s_v) = (
            path.coefficients(torch.as_tensor(t, dtype=torch.float64, device=x.device))  # type: ignore[attr-defined]
            for t in (u, v)
        )
        ratio = like(s_v / s_u, x_)
        gained = like(a_v**2 - (a_u * s_v / s_u) ** 2, x_)  # sigma_v^2 l
        a_u, a_v, s_u = (like(value, x_) for value in (a_u, a_v, s_u))
        k = (ratio**2 + variance * gained / s_u**2).clamp_min(0.0).sqrt()
        there = k * x_ + gained * (mean - variance * a_u * x_ / s_u**2) / (a_v + k * a_u)
        return there.to(x.dtype)


def _coefficients(path: Path, t: Times, means: Means) -> tuple[Tensor, Tensor]:
    """alpha and sigma, shaped to broadcast against the means.

    At sigma = 0 the belief is x_r itself; a noise this far below any spread gives it to six digits."""
    alpha, _, sigma = path.coefficients(t)  # type: ignore[attr-defined]
    return like(alpha, means), like(sigma.clamp_min(1e-5), means)
