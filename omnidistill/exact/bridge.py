"""`exact/bridge`: recover clean vectors from corrupted ones; the posterior is a mixture of linear Gaussians."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.energy import Energy
from omnidistill.exact import parameters
from omnidistill.exact.arguments import keywords, whole
from omnidistill.exact.linear_mixture import LinearMixture
from omnidistill.exact.render import scatter
from omnidistill.networks.mlp import MLP
from omnidistill.paths import GaussianPath
from omnidistill.paths.base import as_time
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator, in_order, normal
from omnidistill.samplers import Heun, Sampler
from omnidistill.shapes import TensorTime, Time
from omnidistill.tasks import Metric, Task

ANCHOR_STD = 0.5


class BridgeDenoiser(Denoiser):
    """`E[x0 | x_t, y]` on any Gaussian path: each component conditioned on `z = x_t - beta y = alpha x0 + sigma eps`.

    Along the axes Q everything is one-dimensional. With `c_j = Q^T (A y + b + m_j)` and `v = alpha^2 variance +
    sigma^2`, the responsibilities are `r_j ~ w_j exp(-|Q^T z - alpha c_j|^2_{1/v} / 2)` and the mean is
    `Q sum_j r_j (c_j + alpha variance / v (Q^T z - alpha c_j))`. Where x_t holds neither x0 nor noise (a Brownian
    bridge at t = 1) it is `A y + b`. Computed in float64, returned in the dtype of x_t.
    """

    path: GaussianPath

    def __init__(self, path: GaussianPath, law: LinearMixture) -> None:
        super().__init__(path)
        self.law = law

    def belief(
        self, x_t: Float[Tensor, "b d"], t: Time, context: Context, target_time: TensorTime | None
    ) -> PointPosterior:
        z, alpha, v, law, y = self._seen(x_t, t, context)
        centres = (law.mean(y).unsqueeze(1) + law.shifts) @ law.axes
        error = z.unsqueeze(1) - alpha.unsqueeze(2) * centres
        responsibility = (law.weights.log() - 0.5 * (error**2 / v.unsqueeze(1)).sum(2)).softmax(1)
        gain = (alpha * law.variance / v).unsqueeze(1)
        mean = torch.einsum("bk,bkd->bd", responsibility, centres + gain * error) @ law.axes.mT
        return PointPosterior(mean.to(x_t.dtype))

    def log_density(self, x_t: Float[Tensor, "b d"], t: Time, context: Context) -> Float64[Tensor, "b"]:
        """`log p_t(x_t | y)`, where x_t has a density."""
        z, alpha, v, law, y = self._seen(x_t, t, context)
        centres = (law.mean(y).unsqueeze(1) + law.shifts) @ law.axes
        square = ((z.unsqueeze(1) - alpha.unsqueeze(2) * centres) ** 2 / v.unsqueeze(1)).sum(2)
        return (law.weights.log() - 0.5 * square).logsumexp(1) - 0.5 * torch.log(2 * math.pi * v).sum(1)

    def _seen(
        self, x_t: Float[Tensor, "b d"], t: Time, context: Context
    ) -> tuple[
        Float64[Tensor, "b d"],
        Float64[Tensor, "#b 1"],
        Float64[Tensor, "#b d"],
        LinearMixture,
        Float64[Tensor, "b d"],
    ]:
        """(Q^T z, alpha, v, the law, y), on the state's device."""
        if context.anchor is None:
            raise UserError(
                f"the bridge's denoiser needs an anchor y shaped {tuple(x_t.shape)}; the batch has none"
            )
        law, y = self.law.to(x_t.device), context.anchor.double()
        alpha, beta, sigma = (c.reshape(-1, 1) for c in self.path.coefficients(as_time(t, x_t)))
        v = alpha**2 * law.variance + sigma**2
        # No information is infinite variance.
        v = torch.where(v == 0, torch.inf, v)
        return (x_t.double() - beta * y) @ law.axes, alpha, v, law, y


class BridgeTask(Task):
    """Pairs of a corrupted `y ~ N(0, 0.5^2 I)` and a clean x0 with several answers, `x0 | y` a `LinearMixture`.

    The full-step teacher draws one of the modes; the one-step teacher averages them, which is what there is to
    distil. On a path whose prior holds no noise (`brownian_bridge`) x_1 is y itself, so a one-step student is a
    function of y and cannot choose a mode.

    Args:
        dim: of x0 and y.
        seed: of A, b, the modes and their covariance.
        modes: number of components.
        path: a Gaussian path with an anchor, or the name of its constructor.
        teacher_steps: the teacher's full number of steps.
        network: keywords of `MLP`: width, depth.

    Raises:
        UserError: a number out of range, a path without an anchor.
    """

    primary = Metric("energy", "lower")
    _known: Energy | None = None

    def __init__(
        self,
        dim: int = 8,
        seed: int = 1,
        modes: int = 2,
        path: GaussianPath | str = "ouve",
        teacher_steps: int = 64,
        network: Mapping[str, Any] | None = None,
        name: str = "exact/bridge",
    ) -> None:
        self.name, self.seed, dim = name, whole("seed", seed, 0), whole("dim", dim)
        self.law = LinearMixture.random(dim, whole("modes", modes), self.seed)
        self.path: GaussianPath = parameters.gaussian_path(path, anchored=True)
        self.title = f"Linear-Gaussian bridge: {modes} modes in {dim} dimensions"
        self.shape = (dim,)
        self.teacher_steps = whole("teacher_steps", teacher_steps)
        size = {"width": 256, "depth": 4, **keywords("network", network, ("width", "depth", "iterations"))}
        self._network: dict[str, Any] = {
            key: whole(f"network.{key}", value, int(key != "iterations")) for key, value in size.items()
        }

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        """Fresh pairs, in both splits: none is ever seen twice."""
        y = (ANCHOR_STD * torch.randn(count, *self.shape, generator=g, dtype=torch.float64)).to(self.dtype)
        return Batch(self.law.sample(y, g).to(self.dtype), Context(anchor=y))

    def contexts(self, count: int, g: torch.Generator) -> Context:
        like = torch.empty(count, *self.shape, dtype=torch.float64)
        return Context(anchor=(ANCHOR_STD * normal(like, in_order(count, g))).to(self.dtype))

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        return MLP(self.shape[0], anchor=True, target_time=target_time, guidance=guidance, **self._network)

    def reading(self) -> Mapping[str, Any]:
        """`edm`, or `x0` on a path where x_1 holds neither x0 nor noise; sigma_data is the root mean square of x0."""
        alpha, _, sigma = self.path.coefficients(1.0)
        law = self.law
        second = ANCHOR_STD**2 * law.slope.square().sum() + law.offset.square().sum() + law.variance.sum()
        second = second + law.weights @ law.shifts.square().sum(1)
        return {
            "parameterisation": "x0" if float(alpha) == float(sigma) == 0.0 else "edm",
            "time_input": "t",
            "sigma_data": math.sqrt(float(second) / self.shape[0]),
        }

    def exact_teacher(self) -> BridgeDenoiser:
        return BridgeDenoiser(self.path, self.law)

    def sampler(self) -> Sampler:
        return Heun()

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """Against one fresh draw of x0 for each of the same y:

        energy: `Energy` of the pairs (x0, y). conditional_mean_error: `sqrt(E|M y + c - (A y + b)|^2 / d)`
        with the least-squares line `M y + c` of x0 on y; it sees bias only. spread: root mean square of x0 - (A y +
        b) over its true value, 1 is right. modes_recalled, stray, weights_tv: `Mixture.modes` of the whitened
        residual.
        """
        if context.anchor is None or context.anchor.shape != x0.shape:
            raise UserError(f"samples of shape {tuple(x0.shape)} need anchors of that shape to be judged")
        x0, y = x0.detach().cpu().double(), context.anchor.detach().cpu().double()
        if not x0.isfinite().all():
            raise RunError(f"{int((~x0.isfinite()).any(1).sum())} of {len(x0)} samples are NaN or infinite")
        law = self.law
        residual = x0 - law.mean(y)
        design = torch.cat((y, torch.ones_like(y[:, :1])), dim=1)
        # gelsd also answers where there are fewer samples than unknowns.
        bias = design @ torch.linalg.lstsq(design, residual, driver="gelsd").solution
        truth = law.variance.sum() + law.weights @ law.shifts.square().sum(1)
        modes = law.whitened().modes(law.whiten(x0, y))
        return {
            "energy": self._energy(y, g)(torch.cat((x0, y), dim=1)),
            "conditional_mean_error": float(bias.square().mean().sqrt()),
            "spread": float((residual.square().sum(1).mean() / truth).sqrt()),
            **{name: modes[name] for name in ("modes_recalled", "stray", "weights_tv")},
        }

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        assert context.anchor is not None
        x0, y = x0.detach().cpu().double(), context.anchor.detach().cpu().double()
        return self._energy(y, g).resampled(torch.cat((x0, y), dim=1), counts)

    def _energy(self, y: Tensor, g: torch.Generator) -> Energy:
        """To a fresh draw for each y, the former one where it is the same: all points of a curve have one reference."""
        real = torch.cat((self.law.sample(y, g), y), dim=1)
        if self._known is None or not self._known.matches(real, paired=True):
            self._known = Energy(real, paired=True)
        return self._known

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A scatter plot of what is left after the best guess from y, `x0 - (A y + b)`, over real residuals, and x0
        as CSV."""
        if context.anchor is None:
            raise UserError("samples of a bridge are drawn together with their anchors; the context has none")
        y = context.anchor.cpu()
        real = self.law.sample(y, generator(self.seed, "render")) - self.law.mean(y)
        left = x0.detach().cpu() - self.law.mean(y)
        return scatter(left, real, FilePath(target), self.title, numbers=x0)

    def file_suffix(self) -> str:
        return ".csv"
