"""Regression on teacher pairs: the student's answer to a noise against the sample that the teacher makes of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec, branches
from omnidistill.objectives.step import Step, reduce
from omnidistill.samplers import Heun
from omnidistill.times import Times
from omnidistill.weights import weight


class Coupled(NamedTuple):
    """A noise, the sample that belongs to it, the time of the noise and the contexts of both."""

    x_1: Tensor
    x0: Tensor
    top: Tensor
    context: Context


class Regression:
    """`E w(t) divergence(G(x_t, t), x0)` over pairs (x_1, x0) of the teacher's deterministic sampler.

    At t = 1 alone it teaches a single step (Luhman & Luhman 2021; Yin et al. 2023, DMD, eq. 9), which keeps every mode,
    because each noise has its own sample. At all t, with `x_t = bridge(x_1, x0, 1, t)` on the straight way between the
    two, it is a round of reflow (Liu et al. 2022, alg. 1).

    Coordinates are not aligned: the deterministic sampler turns x0 as x_1 is turned, so the pose belongs to the pair.
    An aligned loss would be content with any pose, and steps that keep the noise (`ode`) would mix two poses.

    Args:
        pairs: how many pairs are computed before training, or read from a store; None: each update makes its own.
        steps: the teacher's sampler steps for each.
        divergence: a kind of `Posterior.divergence`. The papers' LPIPS needs a pretrained network of pixels.
        times: where on the way the student is asked; None: at x_1.
        weighting: w(t), a name of `weights.WEIGHTS`, or `output` for the error of the bare network output.
        guidance: scale of the teacher for pairs of an update; those made before have the run's.
    """

    rolls_out = False

    def __init__(
        self,
        pairs: int | None = 4096,
        steps: int = 16,
        divergence: str = "nll",
        times: Times | None = None,
        weighting: str = "uniform",
        guidance: float = 1.0,
    ) -> None:
        if (pairs is not None and pairs < 1) or steps < 1:
            raise UserError(f"regression needs pairs >= 1 and steps >= 1, got pairs={pairs}, steps={steps}")
        self.bank = None if pairs is None else BankSpec(pairs, steps)
        self.steps, self.divergence, self.times, self.weighting = steps, divergence, times, weighting
        self.guidance = guidance
        self.roles: dict[str, RoleSpec] = {}
        # Without a deterministic way from x_1 to x0 a pair says nothing about its noise.
        self.needs = frozenset({"deterministic"} | ({"condition"} if guidance != 1.0 else set()))

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        pair = banked(step) if self.bank else made(step, step.guided("teacher", self.guidance), self.steps)
        return Losses({"regression": regressed(step, pair, self.divergence, self.times, self.weighting)})

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        asked = {} if self.bank else {"teacher": calls(self.steps) * branches(self.guidance)}
        return {"student": 1, **asked}


def banked(step: Step) -> Coupled:
    """A pair of each of the bank's trajectories: their two ends."""
    if step.bank is None:
        raise UserError("regression needs a bank of teacher pairs in step.bank")
    states, times = step.bank["states"], step.bank["times"]
    return Coupled(states[:, 0], states[:, -1], times[0].to(states.device), step.bank["context"])


def made(step: Step, flow: Denoiser, steps: int) -> Coupled:
    """Pairs of noises that are drawn now and what the flow makes of them by Heun's rule."""
    with torch.no_grad():
        x_1 = step.path.prior(step.like, step.context, g=step.g)
        x0 = Heun().sample(flow, x_1, steps, step.context, g=step.g, x_1=x_1).x0
    return Coupled(
        x_1, x0, torch.tensor(step.path.span[1], dtype=torch.float64, device=x_1.device), step.context
    )


def calls(steps: int) -> int:
    """Network calls of so many steps of Heun's rule, whose last one is Euler's."""
    return 2 * steps - 1


def regressed(
    step: Step, pair: Coupled, divergence: str, times: Times | None = None, weighting: str = "uniform"
) -> Tensor:
    """The student's loss on pairs: at the noise, or where on the straight way to the sample `times` say."""
    student, path, context = step["student"], step.path, pair.context
    t = pair.top.expand(len(pair.x_1))
    x_t = pair.x_1
    if times is not None:
        t = times(len(pair.x_1), path, step.g).to(x_t.device)
        x_t = path.bridge(pair.x_1, pair.x0, pair.top, t, context, g=step.g)
    target = torch.zeros_like(t) if times is None else t
    belief = student(x_t, t, context, target_time=target if student.wants_target else None)
    error = belief.divergence(path.certain(pair.x0), divergence, context.mask)
    if times is None:
        return reduce(error, 1.0, context.mask)
    w = student.output_weight(t) if weighting == "output" else weight(weighting, path, t)
    return reduce(error, w, context.mask)
