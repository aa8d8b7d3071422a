"""Rewards that cannot be differentiated: the likelihood of the student's own walk, weighted by its advantage.

`L = -E A sum_i log p_S(x_(t_(i+1)) | x_(t_i))`, whose gradient is that of E R (Williams 1992, REINFORCE, theorem 1).
A is the reward less the mean of a group of walks under one condition, over their deviation (Shao et al. 2024, GRPO,
sec. 4.1.2; Liu et al. 2025, Flow-GRPO, eq. 5). Walks are new in each update, so the ratio to the policy that made them
is 1 and a clipped one has the same gradient.

A Gaussian step has the density of its own noise, summed over a sample's elements; a step without noise has none and is
left out. A token's step has the probabilities of the tokens that it decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import Calls, Losses
from omnidistill.objectives.reward import Judged
from omnidistill.objectives.step import Step
from omnidistill.posteriors import Posterior
from omnidistill.samplers.base import Trajectory

ADVANTAGES = ("group", "mean", "reward")


class PolicyGradient(Judged):
    """
    Args:
        judged: rewards and weights, as the first two options of `Judged`; the rewards need no gradient.
        group: walks under one condition, and from noises of their own. It divides the batch.
        advantage: `group`, (R - mean) / deviation of the group, 0 where all are equal; `mean`, R - mean; `reward`, R.
        clip: largest size of an advantage.
        anchor: weight of the KL of each step to that of the student at its start.
        more: further options of `Judged`.
    """

    family = "policy_gradient"

    def __init__(
        self,
        *judged: Any,
        group: int = 8,
        advantage: str = "group",
        clip: float = 5.0,
        anchor: float = 0.0,
        **more: Any,
    ) -> None:
        super().__init__(*judged, **more)
        if advantage not in ADVANTAGES:
            raise unknown("advantage", advantage, ADVANTAGES)
        if group < 2 and advantage != "reward":
            raise UserError(
                f"an advantage compares walks of a group; families.{self.family}.group is {group}, give 2 or more"
            )
        self.group, self.advantage, self.clip, self.anchor = group, advantage, clip, anchor
        self.hold(anchor)

    def walking(self, role: str) -> list[int | None]:
        return [self.group] if role == "student" else []

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        batch, walk = step.walk(self.group)
        x0 = walk.states[-1].detach()
        with torch.no_grad():
            found = self.rewards.each(x0, batch.x0, batch.context)
            advantage = self._advantages(self.rewards.total(found)).clamp(-self.clip, self.clip)
        likelihood = log_likelihood(step, walk).sum(1)
        terms = {"policy_gradient": -(advantage * likelihood).mean()}
        shown = {
            **self.rewards.shown(found, x0, batch.x0, batch.context),
            "reward/advantage": advantage.abs().mean(),
        }
        if self.anchor:
            apart = self._from_start(step, walk)
            terms["anchor"], shown["reward/from_anchor"] = self.anchor * apart, apart.detach()
        return Losses(terms, shown)

    def _advantages(self, reward: Tensor) -> Tensor:
        if self.advantage == "reward":
            return reward
        groups = reward.reshape(-1, self.group)
        centred = groups - groups.mean(1, keepdim=True)
        if self.advantage == "group":
            spread = groups.std(1, keepdim=True)
            centred = torch.where(spread > 1e-6, centred / spread.clamp_min(1e-6), 0.0)
        return centred.flatten()

    def _from_start(self, step: Step, walk: Trajectory) -> Tensor:
        """Mean over samples of the sum over steps of KL(student's step || that of its start)."""
        total = torch.zeros((), device=step.like.device)
        for i, belief in enumerate(walk.beliefs):
            x, t, s = walk.states[i].detach(), walk.times[i], walk.times[i + 1]
            held = asked_again(step, "reference", walk, i)
            if "categorical" in step.path.offers:
                apart = belief.divergence(held, "backward", walk.context.mask)
            else:
                law = step.spec.sampler.law
                mean, std = law(step.path, x, belief.sample(step.g, walk.context.mask), t, s, walk.context)
                there, _ = law(step.path, x, held.sample(step.g, walk.context.mask), t, s, walk.context)
                if not bool((std > 0).all()):
                    continue
                apart = 0.5 * (mean - there) ** 2 / std**2
            total = total + summed(apart, walk.context.mask).mean()
        return total

    def cost(self, role: str) -> Calls:
        """Of one step of the walk."""
        return {"student": 1} | ({"reference": 1} if self.anchor else {}) if role == "student" else {}


@torch.no_grad()
def asked_again(step: Step, name: str, walk: Trajectory, i: int) -> Posterior:
    """What another model believes at the i-th state of a walk."""
    told = step.spec.sampler.target(step["student"], walk.times[i + 1])
    return step[name](walk.states[i].detach(), walk.times[i], walk.context, target_time=told)


def log_likelihood(step: Step, walk: Trajectory, beliefs: Sequence[Posterior] | None = None) -> Tensor:
    """Float[b steps]: log p of what each step of a walk drew, with the graph of the beliefs; states and draws are
    constants. Steps that draw nothing are left out.

    Args:
        beliefs: those of another model at the walk's states; the walk's own if not given.

    Raises:
        UserError: nothing in the walk was drawn.
    """
    path, mask, found = step.path, walk.context.mask, []
    for i, belief in enumerate(walk.beliefs if beliefs is None else beliefs):
        x, after, t, s = (
            walk.states[i].detach(),
            walk.states[i + 1].detach(),
            walk.times[i],
            walk.times[i + 1],
        )
        if "categorical" in path.offers:
            decided = path.unresolved(x, t) & ~path.unresolved(after, s)
            one = torch.where(decided, belief.log_prob(walk.x0[i]), 0.0)
        else:
            mean, std = step.spec.sampler.law(path, x, belief.sample(step.g, mask), t, s, walk.context)
            if not bool((std > 0).all()):
                continue
            one = -0.5 * (after - mean) ** 2 / std**2
        found.append(summed(one, mask))
    if not found:
        raise UserError(
            f"a policy gradient needs steps that draw; {step.spec.steps} of "
            f"student.transition={step.spec.sampler.transition} draw nothing: "
            "use student.steps >= 2 with student.transition=ancestral, renoise or gamma"
        )
    return torch.stack(found, 1)


def summed(values: Tensor, mask: Tensor | None) -> Tensor:
    """Over the real elements of each sample: Float[b]."""
    if mask is not None:
        values = torch.where(mask.expand(values.shape), values, 0.0)
    return values.flatten(1).sum(1)


def size_of(values: Tensor, mask: Tensor | None) -> Tensor:
    """Float[b]: real elements of each sample."""
    if mask is None:
        return torch.full((len(values),), float(values[0].numel()), device=values.device)
    return mask.expand(values.shape).flatten(1).sum(1).clamp_min(1).to(torch.float32)
