"""A student's walk as numbers: on a Gaussian path each of its steps is

    x0 = a x + b out,   x <- keep x + take x0 + fresh z,   out = network(scale x, time, ...)

with five numbers a step, so that whoever has the network can walk it without this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omnidistill.context import Condition, Context
from omnidistill.denoisers import Denoiser, NetworkDenoiser, Told
from omnidistill.denoisers.inputs import TIME_INPUTS
from omnidistill.denoisers.parameterisation import affine
from omnidistill.errors import UserError
from omnidistill.paths import GaussianPath
from omnidistill.samplers import FewStep, Growing
from omnidistill.samplers.walker import innermost, walkers


@dataclass(frozen=True)
class Stride:
    """One step.

    Attributes:
        t: the time that it begins at.
        time: the same, as the network is told it.
        target: the time that the network is told it jumps to, as it is told it; None where it is told none.
        scale, a, b, keep, take, fresh: see above.
    """

    t: float
    time: float
    target: float | None
    scale: float
    a: float
    b: float
    keep: float
    take: float
    fresh: float


@dataclass(frozen=True)
class Walk:
    """All steps, and the guidance scale that the network is told, None for none."""

    strides: tuple[Stride, ...]
    guidance: float | None

    @property
    def targets(self) -> set[float | None]:
        """All that the network is told it jumps to."""
        return {stride.target for stride in self.strides}

    @property
    def drawn(self) -> int:
        """How many of the steps draw noise."""
        return sum(stride.fresh > 0.0 for stride in self.strides)


def network_of(denoiser: Denoiser) -> tuple[NetworkDenoiser, float | None]:
    """The network of a student and the guidance scale that it is told.

    Raises:
        UserError: its answers are not those of one network call on a Gaussian path.
    """
    if found := walkers(denoiser):
        raise UserError(
            f"the student is sampled with {type(found[0]).__name__} around its network (student.inference), which no "
            "other library knows; format=safetensors keeps it"
        )
    inner = innermost(denoiser)
    if (
        not isinstance(inner, NetworkDenoiser)
        or inner.cells is not None
        or type(inner) is not NetworkDenoiser
    ):
        raise UserError(
            "the student has several heads or a policy, which no other library knows; format=safetensors"
        )
    return inner, float(denoiser.scale) if isinstance(denoiser, Told) else None


def planned(denoiser: Denoiser, sampler: FewStep, steps: int) -> Walk:
    """The walk of a student of this many steps.

    Raises:
        UserError: a path without these five numbers: of tokens, with an anchor, or another than the network's own; or
            states that grow.
    """
    if isinstance(sampler, Growing):
        raise UserError(
            "the student's states grow from step to step (student.sizes), as no other library's do; format=safetensors "
            "keeps it"
        )
    inner, guidance = network_of(denoiser)
    path = inner.path
    if not isinstance(path, GaussianPath) or "anchored" in path.offers or path.temperature != 1.0:
        raise UserError(f"a walk of numbers needs a Gaussian path without an anchor, got {path}")
    if inner.elsewhere is not None:
        raise UserError(f"the network was trained on another path than {path} (trained_on); train on its own")
    times = sampler.times(denoiser, steps)
    strides = []
    for k in range(steps):
        t, s = times[k], times[k + 1]
        keep, take, fresh = _law(sampler, path, t, s)
        scale = 1.0
        if inner.start is not None:
            one, t = inner.start.state(torch.ones(1, dtype=torch.float64), t)
            scale = float(one)
        a, b, _ = affine(path, inner.parameterisation, t, inner.sigma_data)
        a = a * scale
        if inner.unit_input:
            alpha, _, sigma = path.coefficients(t)
            scale *= float((sigma**2 + (inner.sigma_data * alpha) ** 2).rsqrt())
        target = None
        if inner.told_target:
            asked = sampler.target(denoiser, s)
            told = path.span[0] if asked is None or float(asked) == 0.0 else float(asked)
            view = "t" if getattr(inner.network, "second_in_t", False) else inner.time_input
            target = _seen(path, view, told)
        time = _seen(path, inner.time_input, t)
        strides.append(Stride(float(times[k]), time, target, scale, float(a), float(b), keep, take, fresh))
    return Walk(tuple(strides), guidance)


def _seen(path: GaussianPath, view: str, t: Tensor | float) -> float:
    return float(TIME_INPUTS[view](path, torch.as_tensor(t, dtype=torch.float64)))


def _law(sampler: FewStep, path: GaussianPath, t: Tensor, s: Tensor) -> tuple[float, float, float]:
    """What is kept of x, taken of x0 and drawn, read off the law at (1, 0) and (0, 1)."""
    if float(s) == 0.0:
        return 0.0, 1.0, 0.0
    one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    keep, fresh = sampler.law(path, one, none, t, s, Context())
    take, _ = sampler.law(path, none, one, t, s, Context())
    return float(keep), float(take), float(fresh)


class Unrolled(nn.Module):
    """A whole walk as one module: `(x_1, noise, condition) -> x0`.

    `noise: Float[drawn b ...]` is what the steps that draw are given, in their order.
    """

    def __init__(self, network: nn.Module, walk: Walk) -> None:
        super().__init__()
        self.network, self.walk = network, walk

    def forward(self, x: Tensor, noise: Tensor | None = None, condition: Condition = None) -> Tensor:
        drawn = 0
        for stride in self.walk.strides:
            told = {}
            if stride.target is not None:
                told["target_time"] = torch.full_like(x.flatten(1)[:, 0], stride.target)
            if self.walk.guidance is not None:
                told["guidance"] = torch.full_like(x.flatten(1)[:, 0], self.walk.guidance)
            time = torch.full_like(x.flatten(1)[:, 0], stride.time)
            given = () if condition is None else (condition,)
            out = self.network(stride.scale * x, time, *given, **told)
            x0 = stride.a * x + stride.b * out
            x = stride.take * x0 if stride.keep == 0.0 else stride.keep * x + stride.take * x0
            if stride.fresh > 0.0:
                assert noise is not None
                x, drawn = x + stride.fresh * noise[drawn], drawn + 1
        return x


def differs(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest number there is or of 1."""
    if found.shape != wanted.shape or not bool(found.isfinite().all()):
        return float("inf")
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1.0))


def noises(shape: Sequence[int], walk: Walk, g: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """A start of unit variance and what the walk draws, in the order in which samplers draw them."""
    start = torch.randn(*shape, generator=g)
    drawn = [torch.randn(*shape, generator=g) for _ in range(walk.drawn)]
    return start, torch.stack(drawn) if drawn else None
