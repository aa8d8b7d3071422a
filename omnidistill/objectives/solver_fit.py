"""The numbers of a solver, fitted to the samples that the teacher makes of the same noise in many steps."""

from __future__ import annotations

from omnidistill.errors import UserError
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec
from omnidistill.objectives.step import Step, reduce


class SolverFit:
    """`E divergence(x0_N(x_1), x0*(x_1))`: the student's sample of N steps from x_1 against the teacher's of many, with
    the gradient through all N steps (Oganov et al. 2025, GAS, the loss of the generalised solver). The student has a
    walker that learns (`student.inference`, `samplers.multistep.Multistep`); its network is frozen.

    Args:
        pairs: of noise and sample, made before training by the teacher's deterministic sampler.
        teacher_steps: its steps for each.
        divergence: a kind of `Posterior.divergence`.
    """

    rolls_out = False
    guidance_range = None

    def __init__(self, pairs: int = 1024, teacher_steps: int = 32, divergence: str = "l2") -> None:
        if pairs < 1 or teacher_steps < 1:
            raise UserError(
                f"a solver is fitted to pairs >= 1 of teacher_steps >= 1, got {pairs} and {teacher_steps}"
            )
        self.bank, self.divergence = BankSpec(pairs, teacher_steps), divergence
        self.roles: dict[str, RoleSpec] = {}
        self.needs = frozenset({"deterministic"})

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        if step.bank is None:
            raise UserError("solver_fit needs a bank of teacher pairs in step.bank")
        if not step.spec.sampler.deterministic:
            raise UserError(
                f"solver_fit compares samples of one noise, so the student must keep it: student.transition=ode, got "
                f"{step.spec.sampler.transition}"
            )
        x_1, x0, context = step.bank["states"][:, 0], step.bank["states"][:, -1], step.bank["context"]
        made = step.spec.sampler.trajectory(step["student"], x_1, step.spec.steps, context, g=step.g, x_1=x_1)
        belief = step.path.certain(made.states[-1])
        error = belief.divergence(step.path.certain(x0), self.divergence, context.mask)
        return Losses({"solver_fit": reduce(error, 1.0, context.mask)})

    def cost(self, role: str) -> Calls:
        """Of a student of one step; of N steps N times as many."""
        return {"student": 1} if role == "student" else {}
