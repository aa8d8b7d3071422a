"""Noised copies whose noise is not drawn afresh: inverted from the sample, a seed's own, or the best of several.

Each is a distribution of times that says how the copy is made, too, so that it stands where `times` stand and every
objective that looks at those times sees the same copy (`Step.copy`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.objectives.base import branches
from omnidistill.objectives.step import Step
from omnidistill.paths import GaussianPath
from omnidistill.paths.base import as_time, per_sample
from omnidistill.random import generator
from omnidistill.samplers.inversion import START, beginning, invertible
from omnidistill.times import Times, Uniform


def _walked(
    denoiser: Denoiser, x: Tensor, times: Iterable[Tensor], context: Context, path: GaussianPath
) -> Tensor:
    """Along the deterministic trajectory through x, over times of each sample."""
    for t, s in pairwise(times):
        x = path.bridge(x, denoiser(x, t, context).sample(None, context.mask), t, s, context)
    return x


def _between(low: Tensor, high: Tensor, steps: int) -> list[Tensor]:
    return [low + (high - low) * (k / steps) for k in range(steps + 1)]


@dataclass(frozen=True)
class Inverted:
    """x_t on the teacher's own trajectory that ends in the sample, found by DDIM inversion under a condition
    (Lukoianov et al. 2024, SDI, arXiv:2405.15891): SDS is DDIM in the variable x0(t) but for its noise, which is drawn
    anew at every step and makes it average over all of them.

    Args:
        times: at which.
        steps: of the way up.
        guidance: there; the paper takes the negative of the scale that the sample is moved under.
    """

    times: Times = Uniform(0.02, 0.98)
    steps: int = 10
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"an inversion has at least one step, got steps={self.steps}")

    @property
    def calls(self) -> Mapping[str, int]:
        return {"teacher": self.steps * branches(self.guidance)}

    def __call__(self, count: int, path: GaussianPath, g: torch.Generator) -> Tensor:
        return self.times(count, path, g)

    @torch.no_grad()
    def noised(self, step: Step, t: Tensor) -> tuple[Tensor, Tensor]:
        path, x0 = invertible(step.path), step.rollout.x0.detach()
        first = beginning(path, START, t)
        x = path.expected(x0, first, step.context)
        upwards = _between(first, t, self.steps)
        return _walked(step.guided("teacher", self.guidance), x, upwards, step.context, path), t


@dataclass(frozen=True)
class Seeded:
    """The noise that a seed has at t on its own trajectory down from the prior (Xu et al. 2024, Diverse Score
    Distillation, arXiv:2412.06780): each sample is drawn to the mode that the teacher would make of its seed, instead
    of all to the nearest high one.

        `x_t = alpha x0 + sigma eps(z_t)`,   z_t: the deterministic trajectory from z_1 = the seed

    Args:
        times: at which.
        steps: of the way down.
        guidance: there.
        entry: of the condition that numbers the seeds, e.g. the scenes of a student; where there is none, the seed of a
            sample is the noise that the student made it of.
        seed: of the seeds.
    """

    times: Times = Uniform(0.02, 0.98)
    steps: int = 8
    guidance: float = 1.0
    entry: str = "particle"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"a seed's trajectory has at least one step, got steps={self.steps}")

    @property
    def calls(self) -> Mapping[str, int]:
        return {"teacher": (self.steps + 1) * branches(self.guidance)}

    def __call__(self, count: int, path: GaussianPath, g: torch.Generator) -> Tensor:
        return self.times(count, path, g)

    @torch.no_grad()
    def noised(self, step: Step, t: Tensor) -> tuple[Tensor, Tensor]:
        path, x0 = invertible(step.path), step.rollout.x0.detach()
        z, top = self._start(step, path, x0)
        teacher = step.guided("teacher", self.guidance)
        z = _walked(teacher, z, _between(top, t, self.steps), step.context, path)
        belief = teacher(z, t, step.context).sample(None, step.context.mask)
        # eps = (z - the noiseless state of the belief) / sigma, so sigma cancels.
        noise = z - path.expected(belief, t, step.context)
        return path.expected(x0, t, step.context) + noise, t

    def _start(self, step: Step, path: GaussianPath, x0: Tensor) -> tuple[Tensor, Tensor]:
        condition = step.context.condition
        numbers = condition.get(self.entry) if isinstance(condition, Mapping) else None
        if numbers is None:
            return step.rollout.x_t.detach(), step.rollout.t
        known, which = numbers.unique(return_inverse=True)
        one = torch.empty_like(x0[:1])
        seeds = [path.prior(one, g=generator("seed", self.seed, int(k), device=step.g.device)) for k in known]
        return torch.cat(seeds).to(x0.device)[which], torch.full_like(t_of(step), path.span[1])


def t_of(step: Step) -> Tensor:
    """Times of the rollout, Float64[b]."""
    return step.rollout.t.double()


@dataclass(frozen=True)
class Selected:
    """Of several copies the one whose gradient says most (Wang et al. 2023, Selective Diffusion Distillation,
    arXiv:2307.08448): the gap of noises `d = alpha (x0 - D) / sigma` should be large and gathered in few elements, so
    that the one taken has the largest

        `log mean |d| - H(p) / log n`,   p = |d| / sum |d| over a sample's n elements, H its entropy

    Args:
        times: at which.
        candidates: copies of each sample.
        guidance: under which they are judged.
    """

    times: Times = Uniform(0.02, 0.98)
    candidates: int = 4
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.candidates < 2:
            raise UserError(f"one of two copies at least is selected, got candidates={self.candidates}")

    @property
    def calls(self) -> Mapping[str, int]:
        return {"teacher": self.candidates * branches(self.guidance)}

    def __call__(self, count: int, path: GaussianPath, g: torch.Generator) -> Tensor:
        return self.times(count, path, g)

    @torch.no_grad()
    def noised(self, step: Step, t: Tensor) -> tuple[Tensor, Tensor]:
        path, x0 = invertible(step.path), step.rollout.x0.detach()
        teacher = step.guided("teacher", self.guidance)
        times, states, scores = [], [], []
        for k in range(self.candidates):
            u = t if k == 0 else step.draw(self.times, len(t)).to(t.device)
            x_u = path.corrupt(x0, u, step.context, g=step.g)
            belief = teacher(x_u, u, step.context).sample(None, step.context.mask)
            alpha, _, sigma = path.coefficients(as_time(u, x0))
            times.append(u)
            states.append(x_u)
            scores.append(telling(per_sample(alpha / sigma, x0, path.time_axis) * (x0 - belief)))
        best = torch.stack(scores).argmax(0)
        rows = torch.arange(len(t), device=t.device)
        return torch.stack(states)[best, rows], torch.stack(times)[best, rows]


def telling(gap: Tensor) -> Tensor:
    """`log mean |d| - H(p) / log n`, Float[b]."""
    size = gap.flatten(1).abs().double()
    total = size.sum(1, keepdim=True).clamp_min(1e-12)
    p = size / total
    entropy = -(p * p.clamp_min(1e-12).log()).sum(1)
    return (total.squeeze(1) / size.shape[1]).log() - entropy / max(
        1.0, float(torch.tensor(size.shape[1]).log())
    )
