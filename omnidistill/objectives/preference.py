"""Pairs of walks under one condition, the better of which becomes more likely than the worse.

`L = -E log sigmoid( beta sum_i [ log clamp(p_S / p_0, 1 - e, 1 + e)_w - log clamp(p_S / p_0, 1 - e, 1 + e)_l ] )` over
the steps i of the walks that were judged better and worse, p_0 the student at its start (Miao et al. 2024, PSO:
pairwise sample optimisation, arXiv:2410.03190; without the clamp it is DPO's loss, Rafailov et al. 2023, eq. 7).
Log-likelihoods are means over a sample's elements, as the paper's, so that beta does not depend on its size. What is
clamped has no gradient: a pair that is told apart already is left alone.
"""

from __future__ import annotations

from typing import Any

import torch

from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses
from omnidistill.objectives.policy_gradient import PolicyGradient, asked_again, log_likelihood, size_of
from omnidistill.objectives.step import Step


class Preference(PolicyGradient):
    """
    Args:
        judged: rewards and weights of who judges, as the first two options of `Judged`. Pairs judged alike are left
            out.
        beta: how firmly the start is held; larger is firmer.
        clamp: e.
        more: further options of `Judged`.
    """

    family = "preference"

    def __init__(self, *judged: Any, beta: float = 50.0, clamp: float = 0.1, **more: Any) -> None:
        super().__init__(*judged, group=2, **more)
        if beta <= 0.0 or not 0.0 < clamp < 1.0:
            raise UserError(f"preference.beta is above 0 and clamp between 0 and 1, got {beta} and {clamp}")
        self.beta, self.clamp = beta, clamp
        self.hold(0.0, always=True)

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        batch, walk = step.walk(self.group)
        x0 = walk.states[-1].detach()
        with torch.no_grad():
            found = self.rewards.each(x0, batch.x0, batch.context)
            judged = self.rewards.total(found).reshape(-1, 2)
        held = [asked_again(step, "reference", walk, i) for i in range(len(walk.beliefs))]
        size = size_of(x0, batch.context.mask)[:, None]
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
