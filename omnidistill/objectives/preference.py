"""Pairs of walks under one condition, the better of which becomes more likely than the worse.

`L = -E log sigmoid( beta sum_i [ log clamp(p_S / p_0, 1 - e, 1 + e)_w - log clamp(p_S / p_0, 1 - e, 1 + e)_l ] )` over
the steps i of the walks that were judged better and worse, p_0 the student at its start (Miao et al. 2024, PSO:
pairwise sample optimisation, arXiv:2410.03190; without the clamp it is DPO's loss, Rafailov et al. 2023, eq. 7).
Log-likelihoods are means over a sample's elements, as the paper's, so that beta does not depend on its size. What is
clamped has no gradient: a pair that is told apart already is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.policy_gradient import PolicyGradient, asked_again, log_likelihood
from omnidistill.objectives.reward import Rewarding
from omnidistill.objectives.step import Step


class Preference(PolicyGradient):
    """
    Args:
        rewards, weights, caps, watched: who judges, see `omnidistill.objectives.reward.Rewards`. Pairs judged alike are
            left out.
        beta: how firmly the start is held; larger is firmer.
        clamp: e.
    """

    family = "preference"

    def __init__(
        self,
        rewards: Mapping[str, Rewarding] | None = None,
        weights: Mapping[str, float] | None = None,
        caps: Mapping[str, float] | None = None,
        watched: Mapping[str, Rewarding] | None = None,
        beta: float = 50.0,
        clamp: float = 0.1,
    ) -> None:
        super().__init__(rewards, weights, caps, watched, group=2)
        if beta <= 0.0 or not 0.0 < clamp < 1.0:
            raise UserError(f"preference.beta is above 0 and clamp between 0 and 1, got {beta} and {clamp}")
        self.beta, self.clamp = beta, clamp
        self.roles = {"reference": RoleSpec(start="student", refresh=0)}

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        batch, spec = self._groups(step.batch), step.spec
        walk = spec.sampler.trajectory(
            step["student"], step.like, spec.steps, batch.context, g=step.g, keep="each"
        )
        x0 = walk.states[-1].detach()
        with torch.no_grad():
            found = self.rewards.each(x0, batch.x0, batch.context)
            judged = self.rewards.total(found).reshape(-1, 2)
        held = [asked_again(step, "reference", walk, i) for i in range(spec.steps)]
        size = _size(x0, batch.context.mask)[:, None]
        ratio = (log_likelihood(step, walk) - log_likelihood(step, walk, held)) / size
        # Clamped as a ratio and read as its logarithm; outside there is no gradient.
        far = ratio.exp().clamp(1.0 - self.clamp, 1.0 + self.clamp).log().sum(1).reshape(-1, 2)
        sign = (judged[:, 0] - judged[:, 1]).sign()
        margin = self.beta * sign * (far[:, 0] - far[:, 1])
        told = (sign != 0).to(margin.dtype)
        loss = -(told * torch.nn.functional.logsigmoid(margin)).sum() / told.sum().clamp_min(1.0)
        shown = {
            **self.rewards.shown(found, x0, batch.x0, batch.context),
            "preference/judged_alike": 1.0 - told.mean(),
            "preference/margin": margin.detach().mean(),
        }
        return Losses({"preference": loss}, shown)

    def cost(self, role: str) -> Calls:
        """Of one step of the walk."""
        return {"student": 1, "reference": 1} if role == "student" else {}


def _size(x0: Tensor, mask: Tensor | None) -> Tensor:
    """Float[b]: real elements of each sample."""
    if mask is None:
        return torch.full((len(x0),), float(x0[0].numel()), device=x0.device)
    return mask.expand(x0.shape).flatten(1).sum(1).clamp_min(1).to(torch.float32)
