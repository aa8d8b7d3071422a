"""From x_t to x_r along the teacher's trajectory."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.objectives.step import Step
from omnidistill.paths import Path
from omnidistill.posteriors import Posterior
from omnidistill.samplers.solvers import rejoined


def follow(
    path: Path,
    teacher: Denoiser,
    x_t: Tensor,
    t: Tensor,
    r: Tensor,
    context: Context,
    g: torch.Generator,
    steps: int = 1,
    second_order: bool = False,
    whole: bool = False,
    churn: float = 0.0,
) -> tuple[Tensor, Posterior | None]:
    """x_r from x_t by `steps` steps of the teacher, uniform in t, each by one belief or by the trapezoid of two (Heun);
    with `whole` also the one belief by which a single jump goes from t to r, see `Path.share`.

    With `churn` each step draws that share of the noise that the process's own posterior has (`Path.bridge`): 0 is the
    probability flow, 1 ancestral sampling, which as the steps get many is the reverse stochastic equation."""
    x, jump = x_t, None
    for i in range(steps):
        now, then = (t + (r - t) * (j / steps) for j in (i, i + 1))
        belief = teacher(x, now, context)
        x0 = belief.sample(g, context.mask)
        there = path.bridge(x, x0, now, then, context, churn=churn, g=g)
        if second_order:
            # At t = 0 there is nothing left to ask, and the first belief stands.
            late = teacher(there, then.clamp_min(path.span[0]), context)
            belief = belief.blend(late, torch.where(then == 0, 1.0, 0.5))
            there = rejoined(path, there, x, x0, belief.sample(g, context.mask), now, then, context, g)
        if whole:
            jump = belief if jump is None else jump.blend(belief, path.share(x_t, x, t, now, then))
        x = there
    return x, jump


def stored(step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor, Context]:
    """Two neighbouring states of the bank's teacher trajectories, their times t > r, and the contexts that they were
    made under: (x_t, x_r, t, r, context)."""
    if step.bank is None:
        raise UserError("stored states need a bank of teacher trajectories in step.bank")
    states, times = step.bank["states"], step.bank["times"].to(step.bank["states"].device)
    index = torch.randint(len(times) - 1, (len(states),), generator=step.g, device=step.g.device)
    index = index.to(states.device)
    rows = torch.arange(len(states), device=states.device)
    return (
        states[rows, index],
        states[rows, index + 1],
        times[index],
        times[index + 1],
        step.bank["context"],
    )
