"""Fit a denoiser: to data (how teachers are trained) or to another denoiser's beliefs (how one is copied)."""

from __future__ import annotations

import torch

from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.step import Step, reduce
from omnidistill.times import Times, Uniform
from omnidistill.weights import weight


class Denoising:
    """`E_{t, x_t} w(t) nll(student(x_t, t), x0)`: half the squared error for a point (Ho et al. 2020, eq. 14), the
    cross-entropy for tokens (Sahoo et al. 2024, MDLM, eq. 10).

    Coordinates are not aligned to the answer: x_t is x0's own pose under noise, and an error of pose is an error. With
    alignment a denoiser that answers one constant pose, blind to x_t, would reach a loss of 0.

    Args:
        times: distribution of t.
        weighting: `output` weighs as the error of the bare network output does, or a name of `weights.WEIGHTS`.
        target: `data` (x0) or `teacher` (its belief about x_t, which has the same minimiser and less variance).
        drop_condition: share of samples whose condition becomes null, for guidance later (Ho & Salimans 2022).
    """

    bank = None
    guidance_range = None
    rolls_out = False

    def __init__(
        self,
        times: Times = Uniform(),
        weighting: str = "output",
        target: str = "data",
        drop_condition: float = 0.0,
    ) -> None:
        if target not in ("data", "teacher"):
            raise UserError(f"a denoising target is 'data' or 'teacher', got '{target}'")
        self.times, self.weighting, self.target, self.drop = times, weighting, target, drop_condition
        self.roles: dict[str, RoleSpec] = {}
        self.needs = frozenset({"data"})

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        student, path, context = step["student"], step.path, step.without_condition(self.drop)
        t = self.times(step.x0.shape[0], path, step.g).to(step.x0.device)
        x_t = path.corrupt(step.x0, t, context, g=step.g)
        belief = student(x_t, t, context)
        if self.target == "teacher":
            with torch.no_grad():
                target = step["teacher"](x_t, t, context)
        else:
            target = path.certain(step.x0)
        w = student.output_weight(t) if self.weighting == "output" else weight(self.weighting, path, t)
        error = belief.divergence(target, "nll")
        return Losses({"denoising": reduce(error, w, context.mask, path.unresolved(x_t, t))})

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        return {"student": 1, "teacher": 1} if self.target == "teacher" else {"student": 1}
