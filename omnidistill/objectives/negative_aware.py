"""DiffusionNFT: rewards without likelihoods, by the forward process alone (arXiv:2509.16117, algorithm 1).

Samples x0 of the old policy, by any sampler, are judged: `r = 1/2 + clip(A, c) / 2 c` in [0, 1], A the advantage in a
group. Noised anew, with the old policy's belief D_old about them, they teach two policies that share their parameters:

    D+- = D_old +- b (D - D_old),      L = E [ r |D+ - x0|^2 / w+  +  (1 - r) |D- - x0|^2 / w- ] / b

with `w+- = sg mean |D+- - x0|` of a sample, or 1. Its optimum without w is `D_old + (2/b) E[r] (E_r[x0] - E[x0])` given
x_t: the old belief moved towards what was judged well. In velocities the same, for they are affine in x0.

MeanFlow-NFT (`jumps`): the same of a flow map psi(x_t, t, r), which keeps any number of steps. What is compared with x0
is the belief at t that the map's jump implies,

    D(x_t, t, r) = psi - (1 - sigma_r/sigma_t) (psi - x0) + B D_t psi,

the residual of the eulerian identity in `objectives.identities` with the data along the trajectory (in velocities of a
rectified flow `V = u + (t - r) du/dt`, `D = x_t - t V`). Its derivative is taken once, of the old map, and shared: in
D - D_old it cancels, so that `D - D_old = psi - psi_old`. At r = t it is DiffusionNFT.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.objectives import tangents
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.identities import residual, simplex, vacuous, with_rate
from omnidistill.objectives.policy_gradient import PolicyGradient
from omnidistill.objectives.step import Step, reduce
from omnidistill.objectives.walks import grouped
from omnidistill.paths.base import per_sample
from omnidistill.times import Times, Uniform

LEAST = 1e-5


class NegativeAware(PolicyGradient):
    """
    Args:
        judged: rewards and weights, as the first two options of `Judged`.
        strength: b.
        normaliser: `x0` divides by w+-, `none` does not.
        decay: of the old policy, a moving average of the student; 0 is the student as it was an update ago.
        anchor: weight of the squared distance to the student at its start, at the same x_t.
        times: of the noised samples; of a flow map, of the larger and the smaller of two.
        jumps: whether the student is a flow map, told where it jumps to.
        at_once: of a flow map, share of the batch with r = t.
        to_data: of a flow map, share of the batch with r = 0.
        derivative: of a flow map, see `objectives.tangents`.
        more: group and clip of `PolicyGradient`, further options of `Judged`.
    """

    family = "negative_aware"

    def __init__(
        self,
        *judged: Any,
        strength: float = 1.0,
        normaliser: str = "x0",
        decay: float = 0.5,
        anchor: float = 0.0,
        times: Times = Uniform(0.02, 0.98),
        jumps: bool = False,
        at_once: float = 0.5,
        to_data: float = 0.25,
        derivative: str = "difference",
        **more: Any,
    ) -> None:
        super().__init__(*judged, anchor=anchor, **more)
        if strength <= 0.0 or normaliser not in ("x0", "none"):
            raise UserError(
                f"negative_aware.strength is above 0 and normaliser x0 or none, got {strength} and {normaliser}"
            )
        if min(at_once, to_data) < 0.0 or at_once + to_data > 1.0:
            raise UserError(
                f"negative_aware.at_once and to_data are shares of the batch, got {at_once} and {to_data}"
            )
        if derivative not in tangents.DERIVATIVES:
            raise UserError(f"negative_aware.derivative is forward or difference, got {derivative}")
        self.strength, self.normaliser, self.times = strength, normaliser, times
        self.jumps, self.at_once, self.to_data, self.derivative = jumps, at_once, to_data, derivative
        self.roles = {**self.roles, "old": RoleSpec(start="student", average=decay)}
        self.needs = frozenset({"gaussian"} | ({"deterministic"} if jumps else set()))

    def advice(self, path: Any) -> str:
        return vacuous(path) if self.jumps else ""

    def walking(self, role: str) -> list[int | None]:
        """Samples are those of the average that is called old, not of the student."""
        return []

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        batch, b, spec = grouped(step.batch, self.group), self.strength, step.spec
        context, mask = batch.context, batch.context.mask
        with torch.no_grad():
            x0 = spec.sampler.sample(step["old"], step.like, spec.steps, context, g=step.g).x0
            found = self.rewards.each(x0, batch.x0, context)
            advantage = self._advantages(self.rewards.total(found)).clamp(-self.clip, self.clip)
            r = 0.5 + advantage / (2.0 * self.clip)
            t = self.times(len(x0), step.path, step.g).to(x0.device)
            to = self._end(step, t) if self.jumps else None
            t = t if to is None else torch.maximum(t, to)
            x_t = step.path.corrupt(x0, t, context, g=step.g)
            old, shift = self._old(step, x0, x_t, t, to, context)
        own = step["student"](x_t, t, context, target_time=to).sample(step.g, mask)
        plus, minus = (old + sign * b * (own - old) + shift for sign in (1.0, -1.0))
        total = reduce(self._error(plus, x0, mask), r / b, mask)
        total = total + reduce(self._error(minus, x0, mask), (1.0 - r) / b, mask)
        terms, shown = {"negative_aware": total}, self.rewards.shown(found, x0, batch.x0, context)
        if self.anchor:
            with torch.no_grad():
                held = step["reference"](x_t, t, context, target_time=to).sample(step.g, mask)
            apart = reduce(0.5 * (own - held) ** 2, mask=mask)
            terms["anchor"], shown["reward/from_anchor"] = self.anchor * apart, apart.detach()
        return Losses(terms, shown)

    def _end(self, step: Step, t: Tensor) -> Tensor:
        """Float64[b]: where each jump ends, at another draw of the times, at once or at the data."""
        if not step["student"].wants_target:
            raise UserError(
                "negative_aware.jumps=true needs a student that is told them: student.target_time=true"
            )
        if simplex(step.path):
            raise UserError(
                f"negative_aware.jumps=true moves points, and beliefs on {step.path} are logits, to which nothing can "
                "be added; set families.negative_aware.jumps=false"
            )
        other = self.times(len(t), step.path, step.g).to(t.device)
        place = torch.rand(len(t), generator=step.g, device=step.g.device).to(t.device)
        end = torch.where(place < self.at_once, t, other)
        return torch.where(place >= 1.0 - self.to_data, 0.0, end)

    def _old(
        self, step: Step, x0: Tensor, x_t: Tensor, t: Tensor, to: Tensor | None, context: Context
    ) -> tuple[Tensor, Tensor | float]:
        """The old policy's answer, and what a flow map's is moved by to be its belief at t."""
        if to is None:
            return step["old"](x_t, t, context).sample(step.g, context.mask), 0.0
        velocity = step.path.velocity(x_t, x0, t, context)
        psi, rate = with_rate(step["old"], x_t, t, torch.minimum(t, to), context, velocity, self.derivative)
        old = psi.parameters
        # The residual is `psi - D` where D' is the data's own belief: what remains is `D - x0`.
        return old, x0 + residual(step.path, old, x0, x0, rate, t, to, 1.0) - old

    def _error(self, answer: Tensor, x0: Tensor, mask: Tensor | None) -> Tensor:
        """`|D - x0|^2 / w` per element."""
        error = answer - x0
        if self.normaliser == "none":
            return error**2
        real = torch.ones_like(error) if mask is None else mask.expand(error.shape).to(error.dtype)
        w = (error.detach().abs() * real).flatten(1).sum(1) / real.flatten(1).sum(1).clamp_min(1.0)
        return error**2 / per_sample(w.clamp_min(LEAST), error)

    def cost(self, role: str) -> Calls:
        """With an old policy of one step."""
        asked = 1 + (2 if self.jumps and self.derivative == "difference" else 0)
        return (
            {"student": 1, "old": 1 + asked} | ({"reference": 1} if self.anchor else {})
            if role == "student"
            else {}
        )
