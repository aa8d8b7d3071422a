"""Distribution matching: move the student's samples along the gap between a critic's belief and the teacher's.

One rule, `x0 <- x0 - w(t) (D_fake(x_t) - D_real(x_t)) / n`, on the rollout noised to time t. With options it is

| paper | critic | gap | normaliser | weighting |
|---|---|---|---|---|
| Diff-Instruct (Luo et al. 2023, alg. 1) | fake_score | x0 | none | uniform |
| DMD (Yin et al. 2023, eqs. 7 and 8) | fake_score | x0 | x0 | uniform |
| DMD2 (Yin et al. 2024) | fake_score, 5 : 1 | x0 | x0 | uniform |
| SwiftBrush (Nguyen & Tran 2023, alg. 1) | fake_score | eps, as alpha sigma g | none | alpha_sigma |
| Di[M]O (Zhu et al. 2025, alg. 1) | fake_score | logits | none | uniform |
| SDS (Poole et al. 2022, eq. 3) | none | eps, as alpha sigma g | none | alpha_sigma |

Critic and teacher answer about the same x_t, so nothing is aligned between them, nor between the critic and the sample
that it is trained on: at student = data and an exact critic the gap is zero everywhere.

For tokens the gap lives on the logits: the gradient of a divergence between the critic's and the teacher's beliefs
about the masked rollout, applied to the student's own logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.questions import Question
from omnidistill.objectives.step import Step, reduce
from omnidistill.posteriors import Posterior
from omnidistill.times import Times, Uniform
from omnidistill.weights import weight

CRITICS = ("fake_score", "frozen", "none")


class Matching:
    """
    Args:
        critic: what stands for the student's own distribution. `fake_score`: a denoiser trained on its samples;
            `frozen`: a denoiser that is never updated; `none`: the sample itself (score distillation sampling).
        critic_updates: critic updates per student update.
        critic_lr: its learning rate as a multiple of the student's.
        times: distribution of the noising time of the student's update.
        critic_times: the same of the critic's update; `times` if not given.
        weighting: w(t), a name of `weights.WEIGHTS`.
        critic_weighting: w(t) of the critic's denoising loss, or `output`.
        normaliser: `x0` divides by n = mean |x0 - D_real| over a sample's elements (for tokens: the probability the
            teacher does not give to x0), `none` does not.
        floor: smallest n that a gap is divided by; what it touches is counted in the diagnostic `matching/floored`.
            In few dimensions n is close to 0 for some samples by chance, and 1/n needs a higher floor.
        gap: for tokens, `forward` KL(T || F) or `reverse` KL(F || T); points have one gap.
        guidance: guidance scale of the teacher; 1 is none.
        fake_guidance: guidance scale of the critic; 1 is none.
        drop_condition: share of the critic's samples trained without condition; needed if it is guided.
    """

    bank = None
    rolls_out = True

    def __init__(
        self,
        critic: str = "fake_score",
        critic_updates: int = 1,
        critic_lr: float = 1.0,
        times: Times = Uniform(0.02, 0.98),
        critic_times: Times | None = None,
        weighting: str = "uniform",
        critic_weighting: str = "output",
        normaliser: str = "x0",
        floor: float = 1e-4,
        gap: str = "forward",
        guidance: float = 1.0,
        fake_guidance: float = 1.0,
        drop_condition: float = 0.0,
    ) -> None:
        if critic not in CRITICS:
            raise UserError(f"unknown critic '{critic}'; possible: {', '.join(CRITICS)}")
        if normaliser not in ("x0", "none"):
            raise UserError(f"unknown normaliser '{normaliser}'; possible: x0, none")
        if critic == "fake_score" and critic_updates < 1:
            raise UserError(
                f"a trained critic needs critic_updates >= 1, got {critic_updates}; or use critic: frozen"
            )
        self.critic, self.times, self.critic_times = critic, times, critic_times or times
        self.weighting, self.critic_weighting = weighting, critic_weighting
        if not floor > 0:
            raise UserError(f"the normaliser's floor must be positive, got floor={floor}")
        self.normaliser, self.floor, self.kind = normaliser, floor, gap
        self.guidance, self.fake_guidance, self.drop = guidance, fake_guidance, drop_condition
        self.needs = frozenset({"condition"} if guidance != 1.0 or fake_guidance != 1.0 else ())
        self.roles: dict[str, RoleSpec] = {}
        if critic == "fake_score":
            self.roles["fake_score"] = RoleSpec(start="teacher", updates=critic_updates, lr=critic_lr)
        elif critic == "frozen":
            self.roles["fake_score"] = RoleSpec(start="teacher", refresh=0)

    def losses(self, role: str, step: Step) -> Losses | None:
        if role == "student":
            return self._student(step)
        # A critic that is not this objective's to train may still be somebody else's.
        return self._critic(step) if role == "fake_score" and self.critic == "fake_score" else None

    def _beliefs(self, step: Step, x_t: Tensor, t: Tensor) -> tuple[Posterior, Posterior]:
        real = step.guided("teacher", self.guidance)(x_t, t, step.context)
        if self.critic == "none":
            return step.path.certain(step.rollout.x0.detach()), real
        if self.fake_guidance != 1.0:
            return step.guided("fake_score", self.fake_guidance)(x_t, t, step.context), real
        return self._told(step, "student"), real

    def questions(self, role: str) -> list[Question]:
        """Of the critic: its belief about the noised rollout. Under guidance it is asked apart, at the same times."""
        if role == "student" and self.critic != "none":
            return [Question("fake_score", self.times, belief=self.fake_guidance == 1.0)]
        if role == "fake_score" and self.critic == "fake_score":
            return [Question("fake_score", self.critic_times, belief=True, drop=self.drop)]
        return []

    def _told(self, step: Step, role: str) -> Posterior:
        (question,) = self.questions(role)
        belief = step.answer(question).belief
        assert belief is not None
        return belief

    def _student(self, step: Step) -> Losses:
        rollout, path, mask = step.rollout, step.path, step.context.mask
        with torch.no_grad():
            x_t, t = step.noised(self.times)
            fake, real = self._beliefs(step, x_t, t)
            gap = fake.gap(real, self.kind)
            scale, floored = self._scale(real, rollout.x0, mask)
        w = weight(self.weighting, path, t) / scale.to(torch.float64)
        loss = reduce(rollout.belief.pull(gap, w), 1.0, mask, path.unresolved(x_t, t))
        return Losses({"matching": loss}, self._diagnostics(rollout.x0, fake, gap, scale, floored, step))

    def _scale(self, real: Posterior, x0: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """n per sample, and the share of samples where the floor took its place."""
        if self.normaliser == "none":
            one = torch.ones(x0.shape[0], device=x0.device)
            return one, torch.zeros(())
        distance = real.distance(x0.detach())
        real_elements = (
            torch.ones_like(distance, dtype=torch.bool) if mask is None else mask.expand(distance.shape)
        )
        n = torch.where(real_elements, distance, 0.0).flatten(1).sum(1) / real_elements.flatten(1).sum(
            1
        ).clamp_min(1)
        return n.clamp_min(self.floor), (n < self.floor).float().mean()

    def _diagnostics(
        self, x0: Tensor, fake: Posterior, gap: Tensor, scale: Tensor, floored: Tensor, step: Step
    ) -> dict[str, Tensor]:
        mask = step.context.mask
        with torch.no_grad():
            other = step.path.certain(x0.roll(1, 0))
            return {
                "matching/gap": gap.abs().mean(),
                "matching/scale": scale.mean(),
                "matching/floored": floored,
                # The critic's error on the student as it is now; beside its training loss it shows a lag.
                "matching/critic_nll": reduce(
                    fake.divergence(step.path.certain(x0.detach()), "nll"), 1.0, mask
                ),
                # Mean distance between two samples of the batch: falls towards 0 in a collapse.
                "matching/diversity": reduce(other.distance(x0.detach()), 1.0, mask),
            }

    def _critic(self, step: Step) -> Losses:
        """Denoising of the student's samples: `E w(t) nll(F(x_t, t), x0)` (DMD, eq. 6)."""
        x_t, t = step.noised(self.critic_times)
        fake, path, mask = step["fake_score"], step.path, step.context.mask
        belief, target = self._told(step, "fake_score"), path.certain(step.rollout.x0)
        w = (
            fake.output_weight(t)
            if self.critic_weighting == "output"
            else weight(self.critic_weighting, path, t)
        )
        return Losses(
            {"denoising": reduce(belief.divergence(target, "nll"), w, mask, path.unresolved(x_t, t))}
        )

    def cost(self, role: str) -> Calls:
        real = 1 if self.guidance == 1.0 else 2
        fake = 1 if self.fake_guidance == 1.0 else 2
        if role == "student":
            return {"student": 1, "teacher": real} | ({} if self.critic == "none" else {"fake_score": fake})
        return {"student": 1, "fake_score": 1} if role == "fake_score" and self.critic == "fake_score" else {}
