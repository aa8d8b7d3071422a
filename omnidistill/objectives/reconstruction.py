"""Backward distillation: the student is corrected where its own sampling has led it (Kohler et al. 2024, Imagine Flash,
arXiv:2405.05224).

With x_t a state of the student's own walk from pure noise, without a graph, and `f` its belief there,

`L = E w(t) divergence(f(x_t, t), sg D*)`, `D*` the teacher's sample from `x_tau`, `tau = depth t`,

where x_tau is where the student's belief leads. No data are seen, so nothing of them leaks into x_t. The shift to tau
is the paper's: under much noise the target keeps the student's layout, near the data it mends details. Two ways to
x_tau:

`kept`   with the noise of x_t (`Path.bridge`). At depth 1 x_tau is x_t, the target is the end of the teacher's
         trajectory through it, and the exact map has zero loss. Below, a straight way to x_tau leaves the trajectory,
         which is curved: of N(m, c^2), `f - m = phi (x_t - alpha_t m)` is at rest at
         `phi = c k / (S_tau - c (alpha_tau - alpha_t k))`, `k = sigma_tau / sigma_t`, `S^2 = alpha^2 c^2 + sigma^2`,
         against c / S_t of the exact map: at t = 1 of a rectified flow, for c = 0.4 and depth 0.9, 0.418 against 0.4.
`fresh`  with new noise (`Path.corrupt`). The target's mean given the sample is nearer to the data's mean than the
         sample is, `E[D* | x0] - m = (alpha_tau c / S_tau) (x0 - m)`, and a squared distance shrinks what it is
         minimised over. It needs a second term that keeps the spread.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.following import follow
from omnidistill.objectives.scales import Scales
from omnidistill.objectives.step import Step, reduce
from omnidistill.posteriors import Posterior
from omnidistill.weights import weight

NOISE = ("kept", "fresh")


class Reconstruction:
    """
    Args:
        depth: tau as a share of t, above 0 and at most 1.
        noise: of x_tau, see above.
        teacher_steps, second_order: how the teacher goes from tau to the data, see `Consistency`.
        divergence: a kind of `Posterior.divergence`.
        weighting: w(t), a name of `weights.WEIGHTS`.
        guidance: guidance scale of the teacher, or a pair (low, high), see `Scales`.
    """

    bank = None
    rolls_out = True

    def __init__(
        self,
        depth: float = 1.0,
        noise: str = "kept",
        teacher_steps: int = 4,
        second_order: bool = False,
        divergence: str = "nll",
        weighting: str = "uniform",
        guidance: float | tuple[float, float] = 1.0,
    ) -> None:
        if noise not in NOISE:
            raise unknown("noise of a reconstruction", noise, NOISE)
        if not 0.0 < depth <= 1.0 or teacher_steps < 1:
            raise UserError(f"need 0 < depth <= 1 and teacher_steps >= 1, got {depth} and {teacher_steps}")
        self.depth, self.noise, self.teacher_steps = depth, noise, teacher_steps
        self.second_order, self.divergence, self.weighting = second_order, divergence, weighting
        self.scales = Scales(guidance)
        self.guidance_range = self.scales.range
        self.roles: dict[str, RoleSpec] = {}
        self.needs = frozenset(self.scales.needs | {"deterministic"})

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        self.scales.draw(step)
        own, path, mask = step.rollout, step.path, step.context.mask
        with torch.no_grad():
            target = self._target(step, own.x_t, own.x0.detach(), own.t)
        error = own.belief.divergence(target, self.divergence, mask)
        loss = reduce(error, weight(self.weighting, path, own.t), mask, path.unresolved(own.x_t, own.t))
        moved = (own.x0.detach() - target.sample(step.g, mask)).abs().mean()
        return Losses({"reconstruction": loss}, {"reconstruction/moved": moved})

    def _target(self, step: Step, x_t: Tensor, x0: Tensor, t: Tensor) -> Posterior:
        path, context, g = step.path, step.context, step.g
        tau = (self.depth * t).clamp_min(path.span[0])
        if self.noise == "fresh":
            x = path.corrupt(x0, tau, context, g=g)
        else:
            x = path.bridge(x_t, x0, t, tau, context, g=g)
        zero = torch.zeros_like(tau)
        how = (self.teacher_steps, self.second_order)
        found, _ = follow(path, self.scales.teacher(step), x, tau, zero, context, g, *how)
        return path.certain(found)

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        asked = self.teacher_steps * (2 if self.second_order else 1)
        return {"student": 1, "teacher": asked * self.scales.branches}
