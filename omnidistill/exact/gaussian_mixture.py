"""`exact/gaussian_mixture`: points drawn from a mixture of round Gaussians, whose denoiser is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from omnidistill.context import Batch, Context, labels_of
from omnidistill.denoisers import Denoiser
from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.distances import sliced_wasserstein
from omnidistill.evaluation.energy import Energy
from omnidistill.exact import parameters
from omnidistill.exact.arguments import keywords, whole
from omnidistill.exact.mixture import Mixture
from omnidistill.exact.render import scatter
from omnidistill.networks.mlp import MLP
from omnidistill.paths import GaussianPath
from omnidistill.paths.base import as_time
from omnidistill.posteriors import PointPosterior
from omnidistill.random import categorical, generator
from omnidistill.samplers import Heun, Sampler
from omnidistill.shapes import Labels, TensorTime, Time
from omnidistill.tasks import Metric, Task


class MixtureDenoiser(Denoiser):
    """`E[x0 | x_t]` of a mixture on any Gaussian path without an anchor (see `Mixture.posterior_mean`).

    Computed in float64 and returned in the dtype of x_t. Where the context has a condition, it is a label of
    the mixture, and `mixture.null` means that nothing is known.
    """

    path: GaussianPath

    def __init__(self, path: GaussianPath, mixture: Mixture) -> None:
        super().__init__(path)
        self.mixture = mixture

    def belief(
        self, x_t: Float[Tensor, "b d"], t: Time, context: Context, target_time: TensorTime | None
    ) -> PointPosterior:
        alpha, _, sigma = self.path.coefficients(as_time(t, x_t))
        return PointPosterior(self.mixture.posterior_mean(x_t, alpha, sigma, _labels(context)).to(x_t.dtype))

    def log_density(
        self, x_t: Float[Tensor, "b d"], t: Time, context: Context = Context()
    ) -> Float64[Tensor, "b"]:
        """`log p_t(x_t)`, whose gradient is the score `(alpha E[x0 | x_t] - x_t) / sigma^2`."""
        alpha, _, sigma = self.path.coefficients(as_time(t, x_t))
        return self.mixture.log_density(x_t, alpha, sigma, _labels(context))


def _labels(context: Context) -> Labels | None:
    labels = labels_of(context.condition)
    if labels is None and isinstance(context.condition, Tensor):
        raise UserError("the condition of a Gaussian mixture is a tensor of labels")
    return labels


def _checked(labels: Sequence[int], count: int, conditional: bool) -> Labels:
    if not conditional:
        raise UserError("labels are what contexts carry; set conditional=true, or leave labels out")
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise UserError(f"labels must be a list of whole numbers, as in [0,0,1], got {labels!r}")
    own = [whole(f"labels[{i}]", label, 0) for i, label in enumerate(labels)]
    if len(own) != count:
        raise UserError(f"labels must be one for each of the {count} means, got {len(own)}")
    if missing := sorted({*range(max(own))} - {*own}):
        raise UserError(f"labels are 0, 1, ... with none left out; no mean has {missing[0]}")
    return torch.tensor(own)


def _law(prefix: str, means: Any, std: Any, weights: Any) -> tuple[Tensor, float, Tensor]:
    """means, std and normalised weights of a mixture, float64; `prefix` is where they were given."""
    points = torch.tensor(parameters.table(f"{prefix}means", means), dtype=torch.float64)
    shares = [1.0] * len(points) if weights is None else parameters.row(f"{prefix}weights", weights)
    if len(shares) != len(points):
        raise UserError(f"{prefix}weights must be one for each of the {len(points)} means, got {len(shares)}")
    for k, share in enumerate(shares):
        parameters.positive(f"{prefix}weights[{k}]", share)
    weight = torch.tensor(shares, dtype=torch.float64)
    return points, parameters.positive(f"{prefix}std", std), weight / weight.sum()


def _source(given: Mapping[str, Any], data: Mixture, conditional: bool) -> Mixture:
    """The teacher's own mixture; what is left out of it is the data's."""
    said = keywords("source", given, ("means", "std", "weights"))
    means = said.get("means", data.means)
    weights = said.get("weights", None if "means" in said else data.weights)
    points, width, weight = _law("source.", means, said.get("std", data.std), weights)
    if points.shape[1] != data.dim:
        raise UserError(
            f"source.means must be points of {data.dim} numbers, as the means are, got {points.shape[1]}"
        )
    if conditional and len(points) != data.count:
        raise UserError(f"source.means must be {data.count} as the labelled means are, got {len(points)}")
    return Mixture(points, width, weight, data.labels)


class GaussianMixtureTask(Task):
    """Points of `sum_k w_k N(mu_k, std^2 I)`. The teacher is exact, so what is measured is the distillation alone.

    With a `source` it is exact for that instead, and what is measured is how near a student comes to the data.

    Args:
        means: k points of d numbers; None for 8 on the unit circle.
        std: of every component, in every direction.
        weights: k numbers above 0, normalised to sum 1; None for equal ones.
        path: a Gaussian path without an anchor, or the name of its constructor.
        conditional: contexts carry the component's class label; the null label is the number of labels.
        labels: k whole numbers, of which components of the same number share a label, 0, 1, ... with none left out, so
            that a label leaves several modes open; None: each component has its own. With `conditional` alone.
        teacher_steps: the teacher's full number of steps.
        network: keywords of `MLP`: width, depth, ratio.
        seed: of the directions that `sliced_wasserstein` projects on.
        source: means, std and weights of the mixture that the teacher knows, where that is not the data's: a teacher of
            another set, to be adapted. What is left out of it is the data's; the weights of new means are equal. Labels
            are those of the components.

    Raises:
        UserError: means of unequal dimension, std <= 0, weights of another number or <= 0, NaN, an anchored path,
            labels of another number, with gaps, or without `conditional`; a source of another dimension, or of another
            number of means where there are labels.
    """

    primary = Metric("energy", "lower")
    _known: Energy | None = None

    def __init__(
        self,
        means: Sequence[Sequence[float]] | Tensor | None = None,
        std: float = 0.15,
        weights: Sequence[float] | Tensor | None = None,
        path: GaussianPath | str = "rectified_flow",
        conditional: bool = False,
        teacher_steps: int = 64,
        network: Mapping[str, Any] | None = None,
        seed: int = 0,
        labels: Sequence[int] | None = None,
        source: Mapping[str, Any] | None = None,
        name: str = "exact/gaussian_mixture",
    ) -> None:
        if means is None:
            turn = [2 * math.pi * k / 8 for k in range(8)]
            means = [[math.cos(a), math.sin(a)] for a in turn]
        points, width, weight = _law("", means, std, weights)
        own = None if labels is None else _checked(labels, len(points), bool(conditional))
        self.mixture = Mixture(points, width, weight, own)
        self.source = self.mixture if source is None else _source(source, self.mixture, bool(conditional))
        self.path: GaussianPath = parameters.gaussian_path(path, anchored=False)
        self.name, self.seed, self.conditional = name, whole("seed", seed, 0), bool(conditional)
        self.title = f"Gaussian mixture: {self.mixture.count} modes in {self.mixture.dim} dimensions"
        self.shape = (self.mixture.dim,)
        self.teacher_steps = whole("teacher_steps", teacher_steps)
        self.classes = self.null = self.mixture.null if conditional else None
        known = ("width", "depth", "ratio", "iterations")
        size = {"width": 256, "depth": 4, **keywords("network", network, known)}
        checks: dict[str, Callable[[str, Any], Any]] = {
            "ratio": parameters.positive,
            "iterations": partial(whole, least=0),
        }
        self._network: dict[str, Any] = {
            key: checks.get(key, whole)(f"network.{key}", value) for key, value in size.items()
        }

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        """Fresh draws of the mixture, in both splits: no sample is ever seen twice, so none is held out by name."""
        x0, component = self.mixture.sample(torch.full((count,), self.mixture.null), g)
        label = self.mixture.label(component)
        return Batch(x0.to(self.dtype), Context(condition=label) if self.conditional else Context())

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        return MLP(
            self.mixture.dim,
            num_classes=self.classes,
            target_time=target_time,
            guidance=guidance,
            **self._network,
        )

    def reading(self) -> Mapping[str, Any]:
        """`edm`, because it is regular at both ends of every path, with inputs of unit second moment."""
        return {
            "parameterisation": "edm",
            "time_input": "t",
            "sigma_data": self.mixture.scale(),
            "unit_input": True,
        }

    def exact_teacher(self) -> MixtureDenoiser:
        return MixtureDenoiser(self.path, self.source)

    def sampler(self) -> Sampler:
        """Second order, and the most accurate of the samplers here at 64 steps."""
        return Heun()

    def control(self, x0: Tensor, g: torch.Generator) -> Tensor:
        """The label of the component that a point is of, Long[b], drawn from its responsibilities."""
        clean, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        shares = self.mixture.log_joint(x0.detach().cpu(), clean, none).softmax(1)
        return self.mixture.label(categorical(shares, g))

    def _reference(self, count: int, context: Context, g: torch.Generator) -> Tensor:
        labels = _labels(context)
        labels = torch.full((count,), self.mixture.null) if labels is None else labels.cpu()
        return self.mixture.sample(labels, g)[0]

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """Against as many fresh draws (with the same labels, where there are labels):

        energy: see `Energy`. sliced_wasserstein: over 128 directions fixed by the task's seed. modes_recalled,
        heavy_modes_recalled, stray, weights_tv: see `Mixture.modes`. label_accuracy, if conditional: share of
        labelled samples inside the radius of a component of their label.
        """
        x0 = x0.detach().cpu().double()
        if not x0.isfinite().all():
            raise RunError(f"{int((~x0.isfinite()).any(1).sum())} of {len(x0)} samples are NaN or infinite")
        energy = self._energy(len(x0), context, g)
        real = energy.given
        directions = generator(self.seed, "sliced_wasserstein")
        metrics = {
            "energy": energy(x0),
            "sliced_wasserstein": sliced_wasserstein(x0, real, directions),
            **self.mixture.modes(x0),
        }
        labels = _labels(context)
        if labels is not None and bool((named := labels.cpu() < self.mixture.null).any()):
            far = torch.cdist(x0[named], self.mixture.means)
            far = far.where(self.mixture.shares(labels.cpu()[named]) > 0.0, torch.inf)
            metrics["label_accuracy"] = float((far.amin(1) <= self.mixture.radius()).double().mean())
        return metrics

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        return self._energy(len(x0), context, g).resampled(x0.detach().cpu(), counts)

    def _energy(self, count: int, context: Context, g: torch.Generator) -> Energy:
        """To fresh draws, the former one where they are the same: all points of a curve have one reference."""
        real, paired = self._reference(count, context, g), _labels(context) is not None
        if self._known is None or not self._known.matches(real, paired):
            self._known = Energy(real, paired=paired)
        return self._known

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A scatter plot over as many real samples, and the samples as CSV."""
        real = self._reference(len(x0), context, generator(self.seed, "render"))
        return scatter(x0, real, FilePath(target), self.title)

    def file_suffix(self) -> str:
        return ".csv"
