"""A discriminator between two states at s that both come from one state x_t at t > s: the teacher's, and the student's.

A squared error of a jump has the mean of all ends that the student cannot tell apart as its minimum; a discriminator
lets it take any one of them (Lin et al. 2024, SDXL-Lightning, arXiv:2402.13929, sec. 3):

`D(x_s, x_t) = H(f(x_s, s), f(x_t, t))`, real `x_s` by `teacher_steps` steps of the teacher from x_t, fake by one of the
student,

with f the features of the critic's network. Told x_t it wants the teacher's own end of this trajectory; with `told:
false`, `D(x_s) = H(f(x_s, s))`, any end that the teacher might have, which the paper turns to at the end of a stage.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.objectives.adversarial import Adversarial
from omnidistill.objectives.base import Calls
from omnidistill.objectives.following import follow
from omnidistill.objectives.heads import Head
from omnidistill.objectives.questions import Answer, Question, Seen
from omnidistill.objectives.scales import Scales
from omnidistill.objectives.step import Step
from omnidistill.paths import grid


class AdversarialJumps(Adversarial):
    """
    Args:
        segments: the student's steps; t is one of the times at which they begin, s the next.
        teacher_steps, second_order: how the teacher goes from t to s.
        told: whether the discriminator sees x_t beside.
        guidance: scale of the teacher, or a pair (low, high), see `Scales`.
        critic, start, loss, width, ...: as of `Adversarial`.
    """

    rolls_out = False

    def __init__(
        self,
        segments: int = 4,
        teacher_steps: int = 4,
        second_order: bool = False,
        told: bool = True,
        guidance: float | tuple[float, float] = 1.0,
        critic: str = "critic",
        start: str | None = "teacher",
        width: int = 128,
        name: str = "discriminator",
        **options: Any,
    ) -> None:
        refused = {"real", "paired", "view", "times", "heads", "layers", "mismatch"} & options.keys()
        if refused or segments < 1 or teacher_steps < 1:
            raise UserError(
                f"adversarial jumps need segments and teacher_steps >= 1, got {segments} and {teacher_steps}, and have "
                f"no {', '.join(sorted(refused)) or 'rollout'}"
            )
        super().__init__(critic=critic, start=start, width=width, name=name, **options)
        if (self.r1 or self.r2) and self.penalty != "features":
            raise UserError(f"penalty={self.penalty} of two states is not offered; use penalty=features")
        self.segments, self.steps, self.second_order, self.told = segments, teacher_steps, second_order, told
        self.scales = Scales(guidance)
        self.guidance_range = self.scales.range

        def build(denoiser: Denoiser) -> nn.Module:
            return Head(denoiser.feature_channels() * (2 if told else 1), width)

        self.roles[critic].modules[name] = build  # type: ignore[index]
        self.needs = frozenset({"differentiable", "deterministic", "data"} | self.scales.needs)

    def questions(self, role: str) -> list[Question]:
        """None: it looks at states of its own."""
        return []

    def _answer(self, step: Step, role: str) -> Answer:
        path, context, critic = step.path, step.context, step[self.critic]
        self.scales.draw(step)
        times = grid(path, self.segments).to(step.x0.device)
        k = torch.randint(self.segments, (len(step.x0),), generator=step.g, device=step.g.device).to(
            times.device
        )
        t, s = times[k], times[k + 1]
        x_t = path.renoise(step.x0, t, context, g=step.g)
        with torch.no_grad():
            ends = (x_t, t, s, context, step.g, self.steps, self.second_order)
            real, _ = follow(path, self.scales.teacher(step), *ends)
        with torch.set_grad_enabled(role == "student"):
            student = step["student"]
            belief = student(x_t, t, context, target_time=s if student.wants_target else None)
            fake = path.bridge(x_t, belief.sample(step.g, context.mask), t, s, context, g=step.g)
        # Nobody is asked about clean data: the last end is looked at just above.
        at = s.clamp_min(path.span[0])
        before = [self._of(critic, x_t, t, context)] if self.told else []

        def beside(x_s: Tensor) -> Tensor:
            return torch.cat((self._of(critic, x_s, at, context), *before), 1)

        wanted = role != "student" or self.game.relative
        return Answer(
            fake,
            at,
            data=Seen(real, at, context),
            features=beside(fake),
            real=beside(real) if wanted else None,
        )

    @staticmethod
    def _of(critic: Denoiser, x: Tensor, t: Tensor, context: Any) -> Tensor:
        return critic.features(x, t, context)

    def cost(self, role: str) -> Calls:
        if role not in ("student", self.critic):
            return {}
        seen = 1 + int(self.told) + int(role == self.critic or self.game.relative)
        beliefs = self.steps * (2 if self.second_order else 1)
        return {"student": 1, "teacher": beliefs * self.scales.branches, self.critic: seen}
