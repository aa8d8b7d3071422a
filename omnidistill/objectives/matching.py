"""Distribution matching: move the student's samples along the gap between a critic's belief and the teacher's.

One rule, `x0 <- x0 - w(t) h(r) (D_fake(x_t) - D_real(x_t)) / n`, on the rollout noised to time t. With options it is

| paper | critic | gap | normaliser | weighting |
|---|---|---|---|---|
| Diff-Instruct (Luo et al. 2023, alg. 1) | fake_score | x0 | none | uniform |
| DMD (Yin et al. 2023, eqs. 7 and 8) | fake_score | x0 | x0 | uniform |
| DMD2 (Yin et al. 2024) | fake_score, 5 : 1 | x0 | x0 | uniform |
| SwiftBrush (Nguyen & Tran 2023, alg. 1) | fake_score | eps, as alpha sigma g | none | alpha_sigma |
| Di[M]O (Zhu et al. 2025, alg. 1) | fake_score | logits | none | uniform |
| SDS (Poole et al. 2022, eq. 3) | none, or one of `critics` | eps, as alpha sigma g | none | alpha_sigma |
| f-distill (Xu et al. 2025, theorem 1) | fake_score, 5 : 1 | x0, times h(r) | x0 | uniform |

With `gradient: identity` it is the other family, whose gradient goes through both denoisers (`score_identity`).

Critic and teacher answer about the same x_t, so nothing is aligned between them, nor between the critic and the sample
that it is trained on: at student = data and an exact critic the gap is zero everywhere.

For tokens the gap lives on the logits: the gradient of a divergence between the critic's and the teacher's beliefs
about the masked rollout, applied to the student's own logits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.objectives import gaps
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.critics import NAMED, Critic
from omnidistill.objectives.divergences import divergence as law_of
from omnidistill.objectives.divergences import effective
from omnidistill.objectives.fake_score import KINDS, FakeScore, of_data
from omnidistill.objectives.localised import Localised
from omnidistill.objectives.questions import Question
from omnidistill.objectives.ratios import density_ratio
from omnidistill.objectives.real_score import RealScore
from omnidistill.objectives.score_identity import score_identity
from omnidistill.objectives.step import Step, reduce
from omnidistill.posteriors import Posterior
from omnidistill.times import Times, Uniform
from omnidistill.weights import weight

CRITICS = (*KINDS, *NAMED)
GRADIENTS = ("gap", "identity")


class Matching:
    """
    Args:
        critic: what stands for the student's own distribution. `fake_score`: a denoiser trained on its samples;
            `shared`: one that another part trains; `frozen`: a denoiser that is never updated; `none`: the sample
            itself (score distillation sampling); `unconditional`, `student` or a class of `critics`: other stand-ins.
        critic_updates, critic_lr, critic_weighting, drop_condition: of the critic's training, see `FakeScore`.
        times: distribution of the noising time of the student's update. `Onwards` noises the state that the student's
            sampler goes on with instead of the sample; those of `noising` say where the noise comes from.
        critic_times: the same of the critic's update; `times` if not given.
        weighting: w(t), a name of `weights.WEIGHTS`.
        normaliser: `x0` divides by n = mean |x0 - D_real| over a sample's elements (for tokens: the probability the
            teacher does not give to x0), `group` by its mean over the samples of a condition, `none` does not.
        floor: smallest n that a gap is divided by; what it touches is counted in the diagnostic `matching/floored`.
            In few dimensions n is close to 0 for some samples by chance, and 1/n needs a higher floor.
        gap: for tokens, `forward` KL(T || F) or `reverse` KL(F || T); points have one gap.
        fake_guidance: guidance scale of the critic; 1 is none, 0 asks it without condition, None is as the teacher's.
            A guided one needs a share of its samples trained without condition, `drop_condition`.
        gradient: `gap` moves samples along the gap, `identity` goes through both denoisers (score identity).
        alpha: a of the score identity.
        divergence: a name of `divergences.DIVERGENCES`; all but `reverse_kl` weigh each sample by the density ratio at
            x_t, which is read off the head of an `adversarial` part.
        ratio_limits: between which r is held.
        step_aware: the critic is told at which of the student's steps its sample was made, or of states, where they
            are (TDM: Luo et al. 2025). A critic that is not told learns the mixture of what all steps make: errors of
            two steps that cancel in the mixture are no gap, and each step may collapse to its own part of the data.
        follow: share by which the critic's weights move to the student's after each update of the student (SenseFlow).
        guidance, data_share, data_form, real, replaced: of the teacher's side, see `RealScore`.
        critic_teacher: gamma of the critic's second loss, its distance to the teacher's belief about the same state
            (Wei et al. 2023, ASD, arXiv:2312.00739: score distillation as a Wasserstein GAN whose discriminator is the
            difference of two denoising errors). Below 0 the critic goes away from the teacher, to
            `(x0 + gamma D) / (1 + gamma)` on average, and the gap to it is `1 / (1 + gamma)` times that of a critic
            which only denoises.
        shape: what a gap is made into before it moves a sample (`localised`).
    """

    bank = None
    rolls_out: bool | frozenset[str] = True

    def __init__(
        self,
        critic: str | Critic = "fake_score",
        critic_updates: int = 1,
        critic_lr: float = 1.0,
        times: Times = Uniform(0.02, 0.98),
        critic_times: Times | None = None,
        weighting: str = "uniform",
        critic_weighting: str = "output",
        normaliser: str = "x0",
        floor: float = 1e-4,
        gap: str = "forward",
        guidance: float | Sequence[float] = 1.0,
        fake_guidance: float | None = 1.0,
        drop_condition: float = 0.0,
        gradient: str = "gap",
        alpha: float = 1.0,
        divergence: str = "reverse_kl",
        ratio_limits: tuple[float, float] = (0.1, 20.0),
        data_share: float = 0.0,
        data_form: str = "score",
        step_aware: bool = False,
        follow: float | None = None,
        real: str = "teacher",
        replaced: Mapping[int, int] | None = None,
        critic_teacher: float = 0.0,
        shape: Localised | None = None,
    ) -> None:
        name = critic if isinstance(critic, str) else "stand_in"
        for option, value, possible in (
            ("critic", name, CRITICS if isinstance(critic, str) else (name,)),
            ("normaliser", normaliser, gaps.NORMALISERS),
            ("gradient", gradient, GRADIENTS),
        ):
            if value not in possible:
                raise unknown(option, value, possible)
        self.stand_in = NAMED.get(critic) if isinstance(critic, str) else critic
        self.asks = self.stand_in is None
        if not floor > 0:
            raise UserError(f"the normaliser's floor must be positive, got floor={floor}")
        if gradient == "identity" and (data_share or not self.asks):
            raise UserError(
                f"gradient=identity needs a critic and no data_share, got critic={name}, data_share={data_share}"
            )
        if shape is not None and gradient == "identity":
            raise UserError("a shape is given to a gap; with gradient=identity there is none")
        if not 0.0 < ratio_limits[0] < ratio_limits[1]:
            raise UserError(f"ratio_limits are two numbers 0 < low < high, got {list(ratio_limits)}")
        self.real = RealScore(real, guidance, share=data_share, form=data_form, replaced=replaced)
        self.guidance_range = self.real.scales
        self.fake = FakeScore(
            name,
            critic_times or times,
            updates=critic_updates,
            lr=critic_lr,
            weighting=critic_weighting,
            guidance=self.real.guidance if fake_guidance is None else float(fake_guidance),
            drop=drop_condition,
            step_aware=step_aware,
            follow=follow,
            pressure=critic_teacher,
            teacher=real,
        )
        self.times, self.weighting = times, weighting
        self.normaliser, self.floor, self.kind = normaliser, floor, gap
        self.gradient, self.alpha = gradient, alpha
        self.law = None if divergence == "reverse_kl" else law_of(divergence)
        self.limits = (float(ratio_limits[0]), float(ratio_limits[1]))
        self.shape = shape
        needs = set() if self.fake.plain else {"condition"}
        needs |= {"differentiable"} if gradient == "identity" or data_share or self.law else set()
        needs |= self.stand_in.needs if self.stand_in else set()
        self.needs = frozenset(needs | self.real.needs)
        self.roles: dict[str, RoleSpec] = {**self.fake.roles}
        self.roles |= dict(self.stand_in.roles) if self.stand_in else {}
        self.roles |= dict(shape.roles) if shape else {}
        if self.real.trained:
            self.roles[real] = RoleSpec(start="teacher", updates=1, lr=critic_lr)

    def losses(self, role: str, step: Step) -> Losses | None:
        if role == "student":
            return self._student(step)
        if self.real.trained and role == self.real.name:
            return self.fake.teacher_losses(step, self.times)
        if self.stand_in is not None and role in self.stand_in.roles:
            copy = of_data(step, self.fake.times)
            return Losses({role: self.stand_in.losses(role, step, copy.x_t, copy.t, self.real.name)})
        # A critic that is not this objective's to train may still be somebody else's.
        return self.fake.losses(step) if role == "fake_score" and self.fake.trained else None

    # --- who is asked ---------------------------------------------------------------------------------------------

    def questions(self, role: str) -> list[Question]:
        """Of the critic: its belief about the noised rollout, and its features where the head reads a density ratio."""
        if role == "student" and self.asks:
            return [self._question()]
        return [self.fake.question] if role == "fake_score" and self.fake.trained else []

    def _question(self) -> Question:
        graph, features = self.gradient == "identity", self.law is not None
        return Question("fake_score", self.times, self.fake.plain, features, graph=graph)

    def _fake(self, step: Step, x_t: Tensor, t: Tensor) -> Posterior:
        if self.stand_in is not None:
            return self.stand_in.belief(step, x_t, t, self.real.name)
        return self.fake.belief(step, self._question())

    def _target(self, step: Step) -> str:
        """Who is the teacher in this update."""
        return self.real.name

    # --- the student's loss ---------------------------------------------------------------------------------------

    def _student(self, step: Step) -> Losses:
        through = self.gradient == "identity"
        x_t, t = step.noised(self.times)
        with torch.set_grad_enabled(through):
            fake = self._fake(step, x_t, t)
            real, x0, shift = self.real.about(step, x_t, t, self._target(step))
        with torch.no_grad():
            gap = fake.gap(real, self.kind) + shift
            moved = gap if self.shape is None else self.shape(step, gap)
            n, floored = gaps.scale(self.normaliser, real, x0, step.context, self.floor)
        w = weight(self.weighting, step.path, t) * step.copy(self.times).weight / n.to(torch.float64)
        log_ratio = h = None
        if self.law is not None:
            log_ratio, h = density_ratio(step, self.law, self._question(), self.limits)
        mask, open_ = step.context.mask, step.path.unresolved(x_t, t)
        if through:
            error = score_identity(
                step.path, step.copy(self.times), fake, real, self.alpha, self.law, log_ratio
            )
            loss = reduce(error, w, mask, open_)
        else:
            pulled = step.rollout.belief.pull(moved, w if h is None else w * h)
            loss = reduce(pulled, 1.0, mask, open_)
        if not step.logged:
            return Losses({"matching": loss})
        shown = gaps.diagnostics(step, self.times, fake, gap) | {
            "matching/scale": n.mean(),
            "matching/floored": floored,
        }
        if h is not None:
            shown |= {"matching/ratio_ess": effective(h), "matching/ratio": h.mean()}
        return Losses({"matching": loss}, shown)

    def cost(self, role: str) -> Calls:
        if role == "student":
            return _sum(
                {"student": 1},
                self.real.cost,
                {"fake_score": self.fake.asked(self.law is not None)} if self.asks else {},
                getattr(self.times, "calls", {}),
                self.stand_in.cost(role, self.real.name) if self.stand_in else {},
                {"source": 1} if "source" in self.roles else {},
            )
        if self.real.trained and role == self.real.name:
            return {role: 1}
        if self.stand_in is not None and role in self.stand_in.roles:
            return self.stand_in.cost(role, self.real.name)
        if role != "fake_score" or not self.fake.trained:
            return {}
        more = {self.real.name: 1} if self.fake.pressure else {}
        return _sum({"student": 1, "fake_score": 1}, more, getattr(self.fake.times, "calls", {}))


def _sum(*calls: Calls) -> Calls:
    total: Counter[str] = Counter()
    for each in calls:
        total.update(each)
    return dict(total)
