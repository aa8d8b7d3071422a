"""DiffusionNFT: rewards without likelihoods, by the forward process alone (arXiv:2509.16117, algorithm 1).

Samples x0 of the old policy, by any sampler, are judged: `r = 1/2 + clip(A, c) / 2 c` in [0, 1], A the advantage in a
group. Noised anew, with the old policy's belief D_old about them, they teach two policies that share their parameters:

    D+- = D_old +- b (D - D_old),      L = E [ r |D+ - x0|^2 / w+  +  (1 - r) |D- - x0|^2 / w- ] / b

with `w+- = sg mean |D+- - x0|` of a sample, or 1. Its optimum without w is `D_old + (2/b) E[r] (E_r[x0] - E[x0])` given
x_t: the old belief moved towards what was judged well. In velocities the same, for they are affine in x0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.policy_gradient import PolicyGradient
from omnidistill.objectives.reward import Rewarding
from omnidistill.objectives.step import Step, reduce
from omnidistill.paths.base import per_sample
from omnidistill.times import Times, Uniform

LEAST = 1e-5


class NegativeAware(PolicyGradient):
    """
    Args:
        rewards, weights, caps, watched, group, clip: as of `PolicyGradient`.
        strength: b.
        normaliser: `x0` divides by w+-, `none` does not.
        decay: of the old policy, a moving average of the student; 0 is the student as it was an update ago.
        anchor: weight of the squared distance to the student at its start, at the same x_t.
        times: of the noised samples.
    """

    family = "negative_aware"

    def __init__(
        self,
        rewards: Mapping[str, Rewarding] | None = None,
        weights: Mapping[str, float] | None = None,
        caps: Mapping[str, float] | None = None,
        watched: Mapping[str, Rewarding] | None = None,
        group: int = 8,
        clip: float = 5.0,
        strength: float = 1.0,
        normaliser: str = "x0",
        decay: float = 0.5,
        anchor: float = 0.0,
        times: Times = Uniform(0.02, 0.98),
    ) -> None:
        super().__init__(rewards, weights, caps, watched, group, "group", clip, anchor)
        if strength <= 0.0 or normaliser not in ("x0", "none"):
            raise UserError(
                f"negative_aware.strength is above 0 and normaliser x0 or none, got {strength} and {normaliser}"
            )
        self.strength, self.normaliser, self.times = strength, normaliser, times
        self.roles = {**self.roles, "old": RoleSpec(start="student", average=decay)}
        self.needs = frozenset({"gaussian"})

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        batch, b, spec = self._groups(step.batch), self.strength, step.spec
        context, mask = batch.context, batch.context.mask
        with torch.no_grad():
            x0 = spec.sampler.sample(step["old"], step.like, spec.steps, context, g=step.g).x0
            found = self.rewards.each(x0, batch.x0, context)
            advantage = self._advantages(self.rewards.total(found)).clamp(-self.clip, self.clip)
            r = 0.5 + advantage / (2.0 * self.clip)
            t = self.times(len(x0), step.path, step.g).to(x0.device)
            x_t = step.path.corrupt(x0, t, context, g=step.g)
            old = step["old"](x_t, t, context).sample(step.g, mask)
        own = step["student"](x_t, t, context).sample(step.g, mask)
        total = reduce(self._error(old + b * (own - old), x0, mask), r / b, mask)
        total = total + reduce(self._error(old - b * (own - old), x0, mask), (1.0 - r) / b, mask)
        terms, shown = {"negative_aware": total}, self.rewards.shown(found, x0, batch.x0, context)
        if self.anchor:
            with torch.no_grad():
                held = step["reference"](x_t, t, context).sample(step.g, mask)
            apart = reduce(0.5 * (own - held) ** 2, mask=mask)
            terms["anchor"], shown["reward/from_anchor"] = self.anchor * apart, apart.detach()
        return Losses(terms, shown)

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
        return (
            {"student": 1, "old": 2} | ({"reference": 1} if self.anchor else {}) if role == "student" else {}
        )
