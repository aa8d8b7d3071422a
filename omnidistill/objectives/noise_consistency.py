"""Noise consistency: a new control for a generator whose samples, noises and a control model are all there is (Luo et
al. 2025, Noise Consistency Training, arXiv:2506.19741).

G takes a noise z to a sample, and a control model reads c off G(z); so z and c are coupled. A student asked with c and
noise of its own has neither. Between the two lie, with e fresh noise and u from 0 to 1 in steps,

`z_u = cos(pi u / 2) z + sin(pi u / 2) e`,   each of the law of z, and of c the more independent the larger u.

`L = E divergence(f(z_u, c, u), sg f(z_v, c, v))`, v the step below u with the same e, `f(z_0, c, 0) = G(z)`.

Of one c this is consistency training (Song et al. 2023, theorem 2) of the diffusion that starts at `p(z | c)`, seen
through G: `f(., c, 1)` takes noise to `p(G(z) | c)`, as the steps get small. With a single step it is regression, whose
answer is the mean of all samples with c.

The student is told u, as the second time 1 - u, so that a sampler's jump to the data, 0, asks for u = 1. One that is
not told has one answer for all u, and where noise does not fit its control a consistent answer is then a constant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec
from omnidistill.objectives.step import Step, reduce
from omnidistill.paths.base import per_sample
from omnidistill.posteriors import Posterior

TARGETS = ("average", "self")


class NoiseConsistency:
    """
    Args:
        pairs: how many noises, samples and controls are computed before training; the teacher is asked without a
            condition, and the task's `control` reads one off each sample.
        steps: the sampler's, for each of them; 1 where the teacher is a one-step generator.
        levels: steps of u.
        target: who answers at v: an exponential moving `average` of the student, or the student `self`.
        decay: of the average.
        divergence: a kind of `Posterior.divergence`.
    """

    rolls_out = False
    guidance_range = None

    def __init__(
        self,
        pairs: int = 4096,
        steps: int = 16,
        levels: int = 16,
        target: str = "average",
        decay: float = 0.95,
        divergence: str = "nll",
    ) -> None:
        if target not in TARGETS:
            raise unknown("target of noise consistency", target, TARGETS)
        if min(pairs, steps, levels) < 1:
            raise UserError(
                f"noise consistency needs pairs, steps and levels >= 1, got {pairs}, {steps}, {levels}"
            )
        self.levels, self.target, self.divergence = levels, target, divergence
        self.bank = BankSpec(pairs, steps, controlled=True)
        self.roles = {"target": RoleSpec(start="student", average=decay)} if target == "average" else {}
        self.needs = frozenset({"gaussian", "deterministic", "condition"})

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        student = step["student"]
        if step.bank is None:
            raise UserError("noise consistency needs a bank of teacher pairs in step.bank")
        if not student.wants_target:
            raise UserError(
                "the student has to be told how far noise and control are coupled; set student.target_time=true"
            )
        path, context, g = step.path, step.bank["context"], step.g
        z, x0 = step.bank["states"][:, 0], step.bank["states"][:, -1]
        above = 1 + torch.randint(self.levels, (len(z),), generator=g, device=g.device).to(z.device)
        e = path.prior(z, context, g=g)
        u, v = (n.double() / self.levels for n in (above, above - 1))
        belief = ask(student, mixed(z, e, u), u, context)
        with torch.no_grad():
            asked = student if self.target == "self" else step["target"]
            target = ask(asked, mixed(z, e, v), v, context)
            first = (v == 0).reshape(-1, *(1 for _ in z.shape[1:]))
            target = target.replace(torch.where(first, path.certain(x0).parameters, target.parameters))
        error = belief.divergence(target, self.divergence, context.mask)
        return Losses({"noise_consistency": reduce(error, 1.0, context.mask)})

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        return {"student": 2} if self.target == "self" else {"student": 1, "target": 1}


def mixed(z: Tensor, e: Tensor, u: Tensor) -> Tensor:
    """z_u."""
    angle = 0.5 * math.pi * u
    return per_sample(angle.cos(), z) * z + per_sample(angle.sin(), z) * e


def ask(denoiser: Denoiser, z_u: Tensor, u: Tensor, context: Context) -> Posterior:
    """f(z_u, c, u): the answer at the top of the path."""
    top = torch.full_like(u, denoiser.path.span[1])
    return denoiser(z_u, top, context, target_time=1.0 - u)
