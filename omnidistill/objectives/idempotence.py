"""Idempotence: a map of one step that leaves alone what it has made and what is data."""

from __future__ import annotations

import torch
from torch.func import functional_call

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.step import Step, reduce


class Idempotence:
    """`E d(f'(f(z)), f(z)) + lambda E d(f(x0), x0)` for `f(x) = student(x, t = 1)`, which takes noise and data alike
    (Shocher et al. 2023, IGN, arXiv:2311.01462, eqs. 1 and 2; Zaman et al. 2025, SIGN, arXiv:2509.21470).

    f' is f with its weights held: the first term moves what is made onto what f keeps, the second says that f keeps
    data. The adversarial third loss of IGN, by which f keeps nothing else, is `matching`'s part.

    Args:
        reconstruction: lambda.
        divergence: a kind of `Posterior.divergence`.
    """

    bank = None
    rolls_out = True

    def __init__(self, reconstruction: float = 1.0, divergence: str = "nll") -> None:
        if reconstruction < 0.0:
            raise UserError(f"reconstruction is a weight of at least 0, got {reconstruction}")
        self.reconstruction, self.divergence = reconstruction, divergence
        self.roles: dict[str, RoleSpec] = {}
        self.needs = frozenset({"differentiable"} | ({"data"} if reconstruction else set()))

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        student, path, context = step["student"], step.path, step.context
        if step.spec.several:
            raise UserError("idempotence is of a map of one step; set student.steps=1")
        if not isinstance(student, NetworkDenoiser):
            raise UserError(f"idempotence needs the weights of a network, got {type(student).__name__}")
        made = step.rollout.x0
        top = torch.full((len(made),), path.span[1], dtype=torch.float64, device=made.device)
        held = {name: value.detach() for name, value in student.named_parameters()}
        again = functional_call(student, held, (made, top, context))
        kept = again.divergence(path.certain(made), self.divergence, context.mask)
        terms = {"idempotence": reduce(kept, 1.0, context.mask)}
        if self.reconstruction:
            belief = student(step.x0, top, context)
            error = belief.divergence(path.certain(step.x0), self.divergence, context.mask)
            terms["reconstruction"] = self.reconstruction * reduce(error, 1.0, context.mask)
        return Losses(terms)

    def cost(self, role: str) -> Calls:
        return {"student": 2 + (self.reconstruction > 0.0)} if role == "student" else {}
