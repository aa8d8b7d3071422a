"""Reward: the student's answer is moved up the gradient of something measurable about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.step import Step
from omnidistill.times import Times, Uniform

Rewarding = Callable[[Tensor, Tensor | None, Context], Tensor]
"""`reward(x0_hat, x0, context) -> Float[b]`, higher is better, differentiable in x0_hat; x0 is the batch's clean data,
None where the task has none."""

INPUTS = ("noised", "rollout")


class Reward:
    """`L = -E sum_k w_k R_k(x0_hat, x0, context)` (reward feedback learning: Xu et al. 2023, ImageReward, eq. 3; as the
    auxiliary losses of ROSE-CD, Xu et al. 2025).

    Args:
        rewards: by name, each a callable as described by `Rewarding`.
        weights: w_k by name; 1 for those that are not named.
        inputs: whose answer is judged: `noised`, the student's belief about the batch's data noised to a time of
            `times`; `rollout`, the sample that the step's other objectives look at.
        times: for `noised`.
    """

    bank = None

    def __init__(
        self,
        rewards: Mapping[str, Rewarding] | None = None,
        weights: Mapping[str, float] | None = None,
        inputs: str = "rollout",
        times: Times = Uniform(),
    ) -> None:
        self.rewards, self.weights = dict(rewards or {}), dict(weights or {})
        if not self.rewards:
            raise UserError(
                "objective.reward has nothing to reward; give families.reward.rewards={name: ...}"
            )
        if stray := sorted(self.weights.keys() - self.rewards.keys()):
            raise UserError(
                f"families.reward.weights names {', '.join(stray)}, the rewards are {', '.join(self.rewards)}"
            )
        if inputs not in INPUTS:
            raise UserError(f"unknown inputs '{inputs}' of a reward; possible: {', '.join(INPUTS)}")
        self.inputs, self.times = inputs, times
        self.rolls_out = inputs == "rollout"
        self.roles: dict[str, RoleSpec] = {}
        self.needs = frozenset({"differentiable"} | ({"data"} if inputs == "noised" else set()))

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        answer = self._answer(step)
        found = {name: reward(answer, step.batch.x0, step.context) for name, reward in self.rewards.items()}
        terms = {
            f"reward/{name}": -self.weights.get(name, 1.0) * value.mean() for name, value in found.items()
        }
        return Losses(terms, {f"reward/{name}/mean": value.detach().mean() for name, value in found.items()})

    def _answer(self, step: Step) -> Tensor:
        if self.inputs == "rollout":
            return step.rollout.x0
        t = self.times(step.x0.shape[0], step.path, step.g).to(step.x0.device)
        x_t = step.path.renoise(step.x0, t, step.context, g=step.g)
        return step["student"](x_t, t, step.context).sample(step.g, step.context.mask)

    def cost(self, role: str) -> Calls:
        return {"student": 1} if role == "student" else {}
