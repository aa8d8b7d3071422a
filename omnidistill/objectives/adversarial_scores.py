"""Adversarial distribution matching: a discriminator in the place of the gap between critic and teacher (Lu et al.
2025, ADM, arXiv:2507.18569).

At a noised rollout (x_t, t) both denoisers make one step of their probability flow to `t - interval`,

`x^real = bridge(x_t, D_T(x_t, t), t, t - interval)`, `x^fake = bridge(x_t, D_F(x_t, t), t, t - interval)`,

and a discriminator learns to tell the two apart. The student, through x_t and the critic's step, is trained to make the
critic's look like the teacher's. The critic learns the student's samples as in `matching`. With student and teacher of
one law and an exact critic both steps are the same, nothing can be told apart, and nothing moves; what divergence is
brought down elsewhere is the discriminator's, not a reverse KL that forgets modes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.objectives.adversarial import Adversarial
from omnidistill.objectives.base import Calls, Losses, branches
from omnidistill.objectives.matching import Matching
from omnidistill.objectives.questions import Answer, Question, Seen
from omnidistill.objectives.step import Step
from omnidistill.times import Times, Uniform


class AdversarialScores(Adversarial):
    """
    Args:
        interval: how far both steps go, in t.
        times: of x_t.
        guidance: scale of the teacher.
        critic_updates, critic_lr: of the fake score.
        eye: the role whose features the discriminator reads, by default a frozen copy of the teacher; `start`,
            `frozen`, `loss`, `layers`, ...: as of `Adversarial`.
    """

    def __init__(
        self,
        interval: float = 1.0 / 64.0,
        times: Times = Uniform(0.02, 0.98),
        guidance: float = 1.0,
        critic_updates: int = 1,
        critic_lr: float = 1.0,
        eye: str = "eye",
        start: str | None = "teacher",
        frozen: bool = True,
        loss: str = "hinge",
        critic_weight: float = 1.0,
        **options: Any,
    ) -> None:
        refused = {"real", "paired", "view", "mismatch", "critic"} & options.keys()
        if refused or not 0.0 < interval < 1.0:
            raise UserError(
                f"an adversarial matching of scores needs 0 < interval < 1, got {interval}, and has no "
                f"{', '.join(sorted(refused)) or 'data'}"
            )
        super().__init__(
            critic=eye,
            start=start,
            frozen=frozen,
            loss=loss,
            times=times,
            critic_weight=critic_weight,
            **options,
        )
        self.scores = Matching(
            critic_updates=critic_updates, critic_lr=critic_lr, times=times, guidance=guidance
        )
        self.interval = interval
        self.roles = {**self.roles, **self.scores.roles}
        self.needs = frozenset({"differentiable", "deterministic"} | self.scores.needs)

    def questions(self, role: str) -> list[Question]:
        """Of the fake score: its belief, through which the student's gradient goes."""
        if role == "fake_score":
            return self.scores.questions(role)
        return (
            [Question("fake_score", self.times, belief=True, graph=True)]
            if role in ("student", self.critic)
            else []
        )

    def losses(self, role: str, step: Step) -> Losses | None:
        return self.scores.losses(role, step) if role == "fake_score" else super().losses(role, step)

    def _answer(self, step: Step, role: str) -> Answer:
        assert self.times is not None
        path, context = step.path, step.context
        seen = step.answer(*self.questions(role))
        x_t, t = seen.x_t, seen.t
        later = (t - self.interval).clamp_min(path.span[0])
        with torch.no_grad():
            teacher = step.guided("teacher", self.scores.real.guidance)(x_t, t, context)

        def onwards(belief: Any, x: Tensor) -> Tensor:
            return path.bridge(x, belief.sample(step.g, context.mask), t, later, context, g=step.g)

        real, fake = onwards(teacher, x_t.detach()), onwards(seen.belief, x_t)
        wanted = role != "student" or self.game.relative
        return Answer(
            fake,
            later,
            data=Seen(real, later, context),
            features=self._features(step, fake, later, context),
            real=self._features(step, real, later, context) if wanted else None,
        )

    def cost(self, role: str) -> Calls:
        if role == "fake_score":
            return self.scores.cost(role)
        if role not in ("student", self.critic):
            return {}
        calls = dict(super().cost(role))
        return calls | {"teacher": branches(self.scores.real.guidance), "fake_score": 1}
