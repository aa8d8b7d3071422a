"""Imitation of a teacher by a policy: the student is asked once for a segment, the teacher wherever its policy leads.

    `L = 1/n sum_a w(a) divergence(policy.after(x_a, a), D_teacher(x_a, a))`,  a_1 = t, n times of the segment

A policy (`denoisers.policies`) says at every state x_a of the segment what it believes, without the network. States are
met by walking it without gradient (on-policy: what it does wrong it learns to mend, Ross et al. 2011, DAgger), or on
the way to that (`warm_up`) partly along the teacher's beliefs. The trajectory of a policy that answers as the teacher
wherever it comes is the teacher's, so any number of small steps costs one call (Chen et al. 2025, pi-Flow,
arXiv:2510.14974; with a velocity that moves exponentially Yang et al. 2026, ArcFlow, arXiv:2602.09014).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omnidistill.denoisers.policies import walked
from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec, branches
from omnidistill.objectives.step import Step, reduce
from omnidistill.posteriors import detach
from omnidistill.weights import weight


class PolicyFlow:
    """
    Args:
        states: n, in each of which the teacher is asked; the first is where the student was.
        weighting: w(a), a name of `weights.WEIGHTS`; `velocity` for the papers' error of velocities.
        divergence: a kind of divergence from the teacher's belief; of a mixture `l2` compares means.
        warm_up: updates in which the states go over from the teacher's trajectory to the policy's.
        guidance: guidance scale of the teacher; 1 is none.
        substeps: of a walk from one state to the next.
    """

    bank = None
    rolls_out = False
    guidance_range = None

    def __init__(
        self,
        states: int = 4,
        weighting: str = "velocity",
        divergence: str = "l2",
        warm_up: int = 0,
        guidance: float = 1.0,
        substeps: int = 8,
    ) -> None:
        if states < 1 or warm_up < 0 or substeps < 1:
            raise UserError(
                f"policy_flow needs states >= 1, warm_up >= 0, substeps >= 1, got {states}, {warm_up}, {substeps}"
            )
        self.states, self.weighting, self.divergence = states, weighting, divergence
        self.warm_up, self.guidance, self.substeps = warm_up, guidance, substeps
        self.roles: dict[str, RoleSpec] = {}
        self.needs = frozenset({"deterministic", "gaussian"} | ({"condition"} if guidance != 1.0 else set()))

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        path, context = step.path, step.context
        x, t, s = self._segment(step)
        policy = step["student"].policy(x, t, context, target_time=s)
        frozen, teacher = detach(policy), step.guided("teacher", self.guidance)
        share = max(0.0, 1.0 - step.update / self.warm_up) if self.warm_up else 0.0
        errors, drift, before, said = [], [], t, None
        for a in self._times(step, t, s):
            with torch.no_grad():
                x = self._met(frozen, x, before, a, said, share, step)
                said = teacher(x, a, context)
            believed = policy.after(x, a, path)
            error = believed.divergence(said, self.divergence, context.mask)
            errors.append(reduce(error, weight(self.weighting, path, a), context.mask))
            drift.append(detach(believed).gap(said).abs().mean())
            before = a
        return Losses(
            {"policy_flow": torch.stack(errors).mean()}, {"policy_flow/drift": torch.stack(drift).mean()}
        )

    def _segment(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """x at the start t of one of the student's steps, and its end s: data noised, or where its own walk is."""
        path, context, sampler, student = step.path, step.context, step.spec.sampler, step["student"]
        times, steps = sampler.times(student, step.spec.steps), step.spec.steps
        k = (
            int(torch.randint(steps, (), generator=step.structure, device=step.structure.device))
            if steps > 1
            else 0
        )
        if step.spec.inputs == "data" and k:
            x = path.renoise(step.x0, times[k], context, g=step.g)
        else:
            x = path.prior(step.like, context, g=step.g)
            with torch.no_grad():
                for i in range(k):
                    x = sampler.step(student, x, times[i], times[i + 1], context, step.g)
        t, s = (times[i].expand(len(x)).to(x.device) for i in (k, k + 1))
        return x, t, s

    def _times(self, step: Step, t: Tensor, s: Tensor) -> list[Tensor]:
        """The start, and a time in each of the n - 1 equal parts of the segment, drawn once a sample."""
        u = torch.rand(len(t), generator=step.g, device=step.g.device, dtype=torch.float64).to(t.device)
        low = s.clamp_min(step.path.span[0])
        return [t, *(t + (low - t) * ((i + u) / (self.states - 1)) for i in range(self.states - 1))]

    def _met(
        self, policy: Any, x: Tensor, before: Tensor, a: Tensor, said: Any, share: float, step: Step
    ) -> Tensor:
        """The state at a: from the one before, first along what the teacher said there, then along the policy."""
        if said is None:
            return x
        turn = before + share * (a - before)
        if share:
            x = step.path.bridge(
                x, said.sample(step.g, step.context.mask), before, turn, step.context, g=step.g
            )
        return x if share == 1.0 else walked(policy, x, turn, a, step.path, self.substeps)

    def cost(self, role: str) -> Calls:
        """Of a student of one step, or from noised data. Of N steps one is drawn, and the student's walk to it costs a
        call a step, (N - 1) / 2 on average."""
        if role != "student":
            return {}
        return {"student": 1, "teacher": self.states * branches(self.guidance)}
