"""Regression on teacher pairs: the student's answer to a noise against the sample that the teacher makes of it."""

from __future__ import annotations

from omnidistill.errors import UserError
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec
from omnidistill.objectives.step import Step, reduce


class Regression:
    """`E divergence(G(x_1), x0)` over pairs (x_1, x0) of the teacher's deterministic sampler (Yin et al. 2023, DMD,
    eq. 9; Luhman & Luhman 2021). It keeps every mode, because each noise has its own sample.

    Coordinates are not aligned: the deterministic sampler turns x0 as x_1 is turned, so the pose belongs to the pair.
    An aligned loss would be content with any pose, and steps that keep the noise (`ode`) would mix two poses.

    Args:
        pairs: how many pairs are computed before training.
        steps: the teacher's sampler steps for each.
        divergence: a kind of `Posterior.divergence`. The paper's LPIPS needs a pretrained network of pixels.
    """

    rolls_out = False

    def __init__(self, pairs: int = 4096, steps: int = 16, divergence: str = "nll") -> None:
        if pairs < 1 or steps < 1:
            raise UserError(f"regression needs pairs >= 1 and steps >= 1, got pairs={pairs}, steps={steps}")
        self.bank = BankSpec(pairs, steps)
        self.divergence = divergence
        self.roles: dict[str, RoleSpec] = {}
        # Without a deterministic way from x_1 to x0 a pair says nothing about its noise.
        self.needs = frozenset({"deterministic"})

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        if step.bank is None:
            raise UserError("regression needs a bank of teacher pairs in step.bank")
        x_1, x0, context = step.bank["states"][:, 0], step.bank["states"][:, -1], step.bank["context"]
        t = step.bank["times"][0].expand(x_1.shape[0])
        belief = step["student"](x_1, t, context)
        target = step.path.certain(x0)
        return Losses(
            {
                "regression": reduce(
                    belief.divergence(target, self.divergence, context.mask), 1.0, context.mask
                )
            }
        )

    def cost(self, role: str) -> Calls:
        return {"student": 1} if role == "student" else {}
