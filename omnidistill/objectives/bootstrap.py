"""Bootstrapping along the teacher's trajectory from its noise alone (BOOT: Gu et al. 2023, arXiv:2306.05544).

The student `y(x_1, t)` is asked about the noise at every t and answers with the signal at t, `y_t = (x_t - sigma_t eps)
/ alpha_t`: the belief by which one jump leads from x_1 to `x_t = bridge(x_1, y_t, 1, t)`. It is told t as the time it
jumps to, so before training y is the teacher's first belief at every t. For t > r next to one another (signal-ODE):

    `y_r = w y_t + (1 - w) f(x_t, t)`,  w = `Path.share(1, t, r)`

with f the teacher. That is DDIM's exact step for a belief that stays, `w = (sigma/alpha)_r / (sigma/alpha)_t`; the
paper's rule, Euler's, is far off where the noise level falls by much. At t = 1, w = 0 and y_1 = f(x_1, 1), the boundary
condition, without which every solution of the ODE has no loss.

No data, no stored pairs: one noise a sample, one call of the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec, branches
from omnidistill.objectives.jumps import Jumps, Nodes
from omnidistill.objectives.step import Step, reduce
from omnidistill.posteriors import detach


class Bootstrap:
    """
    Args:
        jumps: neighbouring times t > r.
        boundary: share of the batch on the boundary condition.
        divergence: a kind of `Posterior.divergence`.
        rate: errors count as `1 / (t - r)^2`, as those of the rate of change of y; else all alike.
        guidance: guidance scale of the teacher; 1 is none.
        decay: of an average of the student that answers at t; None: the student itself, as in the paper.
    """

    bank = None
    rolls_out = False
    guidance_range = None

    def __init__(
        self,
        jumps: Jumps | None = None,
        boundary: float = 0.25,
        divergence: str = "nll",
        rate: bool = True,
        guidance: float = 1.0,
        decay: float | None = None,
    ) -> None:
        if not 0.0 < boundary < 1.0:
            raise UserError(
                f"boundary is a share of the batch between 0 and 1, got {boundary}: without one the signal drifts"
            )
        self.jumps, self.boundary, self.divergence = jumps or Nodes(25), boundary, divergence
        self.rate, self.guidance = rate, guidance
        self.roles = {} if decay is None else {"target": RoleSpec(start="student", average=decay)}
        needs = {"deterministic", "composable"}
        self.needs = frozenset(needs | ({"condition"} if guidance != 1.0 else set()))

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        student, path, context = step["student"], step.path, step.context
        if not student.wants_target:
            raise UserError(
                "bootstrapping tells the student which t its answer is for; set student.target_time=true"
            )
        x_1 = path.prior(step.like, context, g=step.g)
        count, top = len(x_1), torch.tensor(path.span[1], dtype=torch.float64)
        progress = step.update / step.total if getattr(self.jumps, "refined", True) else 0.0
        t, r = (u.to(x_1.device) for u in self.jumps(count, path, step.g, progress))
        fixed = (torch.arange(count) < max(1, round(self.boundary * count))).to(x_1.device)
        top = top.to(x_1.device).expand(count)
        t, r = (torch.where(fixed, top, u) for u in (t, r))
        with torch.no_grad():
            asked = step["target" if self.roles else "student"]
            signal = asked(x_1, top, context, target_time=t)
            x_t = path.bridge(x_1, signal.sample(step.g, context.mask), top, t, context, g=step.g)
            now = step.guided("teacher", self.guidance)(x_t, t, context)
            w = path.share(x_1, x_t, top, t, r)
            target = signal.blend(now, torch.where(_along(fixed, w), 0.0, w))
        belief = student(x_1, top, context, target_time=r)
        error = belief.divergence(target, self.divergence, context.mask)
        weight = torch.where(fixed, 1.0, (t - r).clamp_min(1e-9) ** -2.0) if self.rate else 1.0
        drift = detach(belief).gap(target).abs().mean()
        return Losses({"bootstrap": reduce(error, weight, context.mask)}, {"bootstrap/drift": drift})

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        calls = {"student": 1, "target": 1} if self.roles else {"student": 2}
        return {**calls, "teacher": branches(self.guidance)}


def _along(fixed: Tensor, w: Tensor) -> Tensor:
    return fixed.reshape(-1, *(1 for _ in w.shape[1:]))
