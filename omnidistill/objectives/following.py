"""From x_t to x_r along the teacher's trajectory."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
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
) -> tuple[Tensor, Posterior | None]:
    """x_r from x_t by `steps` steps of the teacher, uniform in t, each by one belief or by the trapezoid of two (Heun);
    with `whole` also the one belief by which a single jump goes from t to r, see `Path.share`."""
    x, jump = x_t, None
    for i in range(steps):
        now, then = (t + (r - t) * (j / steps) for j in (i, i + 1))
        belief = teacher(x, now, context)
        x0 = belief.sample(g, context.mask)
        there = path.bridge(x, x0, now, then, context, g=g)
        if second_order:
            # At t = 0 there is nothing left to ask, and the first belief stands.
            late = teacher(there, then.clamp_min(path.span[0]), context)
            belief = belief.blend(late, torch.where(then == 0, 1.0, 0.5))
            there = rejoined(path, there, x, x0, belief.sample(g, context.mask), now, then, context, g)
        if whole:
            jump = belief if jump is None else jump.blend(belief, path.share(x_t, x, t, now, then))
        x = there
    return x, jump
