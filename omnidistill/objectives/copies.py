"""Noised copies of a step's rollout: how they are made, and at which times."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.paths import GaussianPath
from omnidistill.times import Annealed, Onwards, Times

if TYPE_CHECKING:
    from omnidistill.objectives.step import Step


class Noised(NamedTuple):
    """A noised copy of a rollout.

    Attributes:
        x_t, t: the copy and its times, Float64[b].
        target: what a denoiser of its law learns from it: the sample, or what stands for it where a state was noised.
        weight: Float64[b], by which an error against that target is weighted.
    """

    x_t: Tensor
    t: Tensor
    target: Tensor
    weight: Tensor


def noised(step: Step, times: Times) -> Noised:
    """The rollout's sample noised to times of this distribution, or as these say it is made (`noising`). With times
    `Onwards` it is the state that the student's sampler goes on with from there."""
    rollout, path = step.rollout, step.path
    t = draw(step, times, len(rollout.x0)).to(rollout.x0.device)
    if isinstance(times, Onwards):
        return onwards(step, step.spec.sampler.onwards(step["student"], rollout, step.g), t)
    if hasattr(times, "noised"):
        x_t, t = times.noised(step, t)
    else:
        x_t = path.corrupt(rollout.x0, t, step.context, g=step.g)
    return Noised(x_t, t, rollout.x0, torch.ones_like(t))


def onwards(step: Step, x_s: Tensor, t: Tensor) -> Noised:
    """A state at the rollout's `s` noised further, to t."""
    if not isinstance(step.path, GaussianPath):
        raise UserError(f"times onwards need a Gaussian path, got {step.path}; use Uniform times")
    x_t, target, weight = step.path.onwards(x_s, step.rollout.s, t, step.context, g=step.g)
    return Noised(x_t, t, target, weight)


def draw(step: Step, times: Times, count: int) -> Tensor:
    """Times of this distribution; those onwards are counted from the rollout's step, those annealed from the run's
    begin."""
    times = getattr(times, "times", times)  # how a copy is made does not change where it lies
    if isinstance(times, Annealed):
        return times(count, step.path, step.g, step.update / step.total)
    if isinstance(times, Onwards):
        return times(count, step.path, step.g, step.rollout.s, float(step.rollout.t[0]))
    return times(count, step.path, step.g)
