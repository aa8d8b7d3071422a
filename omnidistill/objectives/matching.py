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

With `gradient: identity` it is the other family, score identity distillation (SiD: Zhou et al. 2024, arXiv:2404.04057,
eq. 23), whose gradient goes through both denoisers to x_t. With delta = D_real - D_fake,

    `L = E w(t) [delta . (D_real - x0) - a delta . delta] / n`

whose value at an exact critic is `(1 - a) E |delta|^2` and whose gradient, the critic frozen, is half that of
`E |delta|^2` through the score and `1 - a` of it through the samples: a = 1/2 is half a Fisher divergence, a = 1 score
implicit matching (SIM), whose value is 0 for every student. So the loss tells nothing; `matching/gap` does. With a
divergence beside it is Uni-Instruct (Wang et al. 2025, arXiv:2505.20755): with k = h(r) as a function of u = log r,

    `L = E w(t) { k(u) [delta . (D_real - x0) - a delta . delta] - k'(u) delta . delta / 2 } / n`,   du/dx_t = s_p - s_q

is, for a = 1/2, half of `E k |delta|^2`, which with the weight -d snr/dt integrates to the f-divergence.

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

from omnidistill.context import Context, labels_of, relabelled
from omnidistill.denoisers.features import DECLARED
from omnidistill.errors import UserError, unknown
from omnidistill.objectives import gaps
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.critics import Critic
from omnidistill.objectives.divergences import divergence as law_of
from omnidistill.objectives.divergences import effective
from omnidistill.objectives.localised import Localised
from omnidistill.objectives.questions import Answer, Question, at_data
from omnidistill.objectives.step import Noised, Step, reduce
from omnidistill.posteriors import Posterior
from omnidistill.posteriors.base import like
from omnidistill.times import Onwards, Times, Uniform
from omnidistill.weights import weight

CRITICS = ("fake_score", "shared", "frozen", "unconditional", "student", "none")
GRADIENTS = ("gap", "identity")
FORMS = ("score", "x0")
FITTING = ("fake_score", DECLARED, None, "softplus")
"""What a head reads, and how it was trained, whose logit is log p/q."""


class Matching:
    """
    Args:
        critic: what stands for the student's own distribution. `fake_score`: a denoiser trained on its samples;
            `shared`: one that another part trains; `frozen`: a denoiser that is never updated; `unconditional`: the
            teacher without condition, so that only the condition pulls (the likelihood term of JDM); `student`: the
            student itself, asked at x_t, which knows its own law only as far as it is still a denoiser of it (Chadebec
            et al. 2024, Flash Diffusion); `none`: the sample itself (score distillation sampling); or a class of
            `critics`, other stand-ins for it.
        critic_updates: critic updates per student update.
        critic_lr: its learning rate as a multiple of the student's.
        times: distribution of the noising time of the student's update. `Onwards` noises the state that the student's
            sampler goes on with instead of the sample; those of `noising` say where the noise comes from.
        critic_times: the same of the critic's update; `times` if not given.
        weighting: w(t), a name of `weights.WEIGHTS`.
        critic_weighting: w(t) of the critic's denoising loss, or `output`.
        normaliser: `x0` divides by n = mean |x0 - D_real| over a sample's elements (for tokens: the probability the
            teacher does not give to x0), `group` by its mean over the samples of a condition, `none` does not.
        floor: smallest n that a gap is divided by; what it touches is counted in the diagnostic `matching/floored`.
            In few dimensions n is close to 0 for some samples by chance, and 1/n needs a higher floor.
        gap: for tokens, `forward` KL(T || F) or `reverse` KL(F || T); points have one gap.
        guidance: guidance scale of the teacher; 1 is none, 0 asks it without condition. Two numbers are a range from
            which a scale is drawn for each sample.
        fake_guidance: guidance scale of the critic; 1 is none, 0 asks it without condition, None is as the teacher's.
        drop_condition: share of the critic's samples trained without condition; needed if it is guided.
        gradient: `gap` moves samples along the gap, `identity` goes through both denoisers (score identity).
        alpha: a of the score identity.
        divergence: a name of `divergences.DIVERGENCES`; all but `reverse_kl` weigh each sample by the density ratio at
            x_t, which is read off the head of an `adversarial` part.
        ratio_limits: between which r is held.
        data_share: share of samples for which the teacher is asked about noised data in the sample's place, with the
            same noise (Data-Forcing Distillation: Chen et al. 2026, arXiv:2606.18478).
        data_form: what is then compared, `score`s or beliefs (`x0`). Data are independent of the sample, so the first
            only spreads the student (variance V / (1 - share) + k^2 share / (1 - share) in place of a Gaussian
            teacher's V, k the noise level) and the second only contracts it.
        step_aware: the critic is told at which of the student's steps its sample was made, or of states, where they
            are (TDM: Luo et al. 2025), by the second time of a student of several steps, which it starts as a copy of.
            A critic that is not told learns the mixture of what all steps make: errors of two steps that cancel in the
            mixture are no gap, and each step may collapse to its own part of the data.
        follow: share by which the critic's weights move to the student's after each update of the student (SenseFlow).
        real: who is the teacher: `teacher`, or another name for a copy of it that is trained on the task's data
            meanwhile (Uni-DAD: two parts with two teachers and one critic).
        critic_teacher: gamma of the critic's second loss, its distance to the teacher's belief about the same state
            (Wei et al. 2023, ASD, arXiv:2312.00739: score distillation as a Wasserstein GAN whose discriminator is the
            difference of two denoising errors). Below 0 the critic goes away from the teacher, to
            `(x0 + gamma D) / (1 + gamma)` on average, and the gap to it is `1 / (1 + gamma)` times that of a critic
            which only denoises.
        shape: what a gap is made into before it moves a sample (`localised`).
        replaced: labels under which the teacher is asked in place of others, e.g. {3: 5} to forget 3.
    """

    bank = None
    rolls_out = True

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
        self.stand_in: Critic | None = None if isinstance(critic, str) else critic
        critic = critic if isinstance(critic, str) else "stand_in"
        for name, value, possible in (
            ("critic", critic, (*CRITICS, "stand_in") if self.stand_in else CRITICS),
            ("normaliser", normaliser, gaps.NORMALISERS),
            ("gradient", gradient, GRADIENTS),
            ("data_form", data_form, FORMS),
        ):
            if value not in possible:
                raise unknown(name, value, possible)
        if critic == "fake_score" and critic_updates < 1:
            raise UserError(
                f"a trained critic needs critic_updates >= 1, got {critic_updates}; or use critic: frozen"
            )
        if not floor > 0:
            raise UserError(f"the normaliser's floor must be positive, got floor={floor}")
        if not 0.0 <= data_share <= 1.0:
            raise UserError(f"data_share is a share from 0 to 1, got {data_share}")
        if follow is not None and not (0.0 < follow < 1.0 and critic == "fake_score"):
            raise UserError(
                f"follow is a share above 0 and below 1 of a trained critic, got follow={follow}, critic={critic}"
            )
        self.asks = critic in ("fake_score", "shared", "frozen")
        if gradient == "identity" and (data_share or not self.asks):
            raise UserError(
                f"gradient=identity needs a critic and no data_share, got critic={critic}, data_share={data_share}"
            )
        if critic_teacher and (critic != "fake_score" or not critic_teacher > -1.0):
            raise UserError(
                "critic_teacher is above -1 and of a trained critic, got "
                f"critic_teacher={critic_teacher}, critic={critic}"
            )
        if shape is not None and gradient == "identity":
            raise UserError("a shape is given to a gap; with gradient=identity there is none")
        if not 0.0 < ratio_limits[0] < ratio_limits[1]:
            raise UserError(f"ratio_limits are two numbers 0 < low < high, got {list(ratio_limits)}")
        self.critic, self.times, self.critic_times = critic, times, critic_times or times
        self.weighting, self.critic_weighting = weighting, critic_weighting
        self.normaliser, self.floor, self.kind = normaliser, floor, gap
        self.guidance_range = None if isinstance(guidance, int | float) else _range(guidance)
        self.guidance = float(guidance) if isinstance(guidance, int | float) else None
        self.fake_guidance = self.guidance if fake_guidance is None else float(fake_guidance)
        self.drop, self.gradient, self.alpha = drop_condition, gradient, alpha
        self.law = None if divergence == "reverse_kl" else law_of(divergence)
        self.limits = (float(ratio_limits[0]), float(ratio_limits[1]))
        self.data_share, self.data_form, self.real = data_share, data_form, real
        self.pressure, self.shape = critic_teacher, shape
        self.replaced = {int(a): int(b) for a, b in (replaced or {}).items()}
        guided = self.guidance != 1.0 or self.fake_guidance != 1.0
        conditional = guided or bool(self.replaced) or critic == "unconditional"
        needs = {"condition"} if conditional else set()
        needs |= {"differentiable"} if gradient == "identity" or data_share or self.law else set()
        needs |= self.stand_in.needs if self.stand_in else set()
        self.needs = frozenset(needs | ({"data"} if data_share or real != "teacher" else set()))
        self.roles: dict[str, RoleSpec] = {}
        start = "student" if step_aware or follow is not None else "teacher"
        if critic == "fake_score":
            self.roles["fake_score"] = RoleSpec(start, critic_updates, critic_lr, follow=follow)
        elif critic == "frozen":
            self.roles["fake_score"] = RoleSpec(start=start, refresh=0)
        self.roles |= dict(self.stand_in.roles) if self.stand_in else {}
        self.roles |= dict(shape.roles) if shape else {}
        if real != "teacher":
            self.roles[real] = RoleSpec(start="teacher", updates=1, lr=critic_lr)

    def losses(self, role: str, step: Step) -> Losses | None:
        if role == "student":
            return self._student(step)
        if role == self.real != "teacher":
            return self._fitted(step)
        if self.stand_in is not None and role in self.stand_in.roles:
            copy = self._data(step, self.critic_times)
            return Losses({role: self.stand_in.losses(role, step, copy.x_t, copy.t, self.real)})
        # A critic that is not this objective's to train may still be somebody else's.
        return self._critic(step) if role == "fake_score" and self.critic == "fake_score" else None

    # --- who is asked ---------------------------------------------------------------------------------------------

    def questions(self, role: str) -> list[Question]:
        """Of the critic: its belief about the noised rollout, and its features where the head reads a density ratio.
        Under guidance its belief is asked apart, at the same times."""
        if role == "student" and self.asks:
            through = self.gradient == "identity"
            features = self.law is not None
            return [Question("fake_score", self.times, self._plain(), features, graph=through)]
        if role == "fake_score" and self.critic == "fake_score":
            return [Question("fake_score", self.critic_times, belief=True, drop=self.drop)]
        return []

    def _plain(self) -> bool:
        return self.fake_guidance == 1.0

    def _told(self, step: Step, role: str) -> Answer:
        (question,) = self.questions(role)
        return step.answer(question)

    def _fake(self, step: Step, x_t: Tensor, t: Tensor) -> Posterior:
        if self.stand_in is not None:
            return self.stand_in.belief(step, x_t, t, self.real)
        if self.critic == "none":
            return step.path.certain(step.rollout.x0.detach())
        if self.critic == "unconditional":
            return step.guided(self.real, 0.0)(x_t, t, step.context)
        if self.critic == "student":
            student = step["student"]
            target = torch.zeros_like(t) if student.wants_target else None
            return student(x_t, t, step.context, target_time=target)
        told = step["fake_score"].wants_target or not step.spec.several
        if isinstance(self.times, Onwards) and not told:
            raise UserError(
                "the law of a state depends on where it is, and this critic is not told; set step_aware=true and "
                "student.target_time=true"
            )
        if self._plain():
            belief = self._told(step, "student").belief
            assert belief is not None
            return belief
        asked = step.guided("fake_score", self.fake_guidance)
        return asked(x_t, t, step.context, target_time=step.told("fake_score", self.times))

    def _real(self, step: Step, x_t: Tensor, t: Tensor) -> Posterior:
        return step.guided(self.real, self.guidance)(x_t, t, self._asked(step.context))

    def _asked(self, context: Context) -> Context:
        """The context under which the teacher is asked."""
        if not self.replaced:
            return context
        labels = labels_of(context.condition)
        if labels is None:
            raise UserError("replaced needs a condition of labels")
        given = labels.clone()
        for before, after in self.replaced.items():
            given[labels == before] = after
        return context.with_condition(relabelled(context.condition, given))

    # --- the student's loss ---------------------------------------------------------------------------------------

    def _student(self, step: Step) -> Losses:
        through = self.gradient == "identity"
        x_t, t = step.noised(self.times)
        with torch.set_grad_enabled(through):
            fake = self._fake(step, x_t, t)
            real, x0, shift = self._teacher(step, x_t, t)
        with torch.no_grad():
            gap = fake.gap(real, self.kind) + shift
            moved = gap if self.shape is None else self.shape(step, gap)
            n, floored = gaps.scale(self.normaliser, real, x0, step.context, self.floor)
        w = weight(self.weighting, step.path, t) * step.copy(self.times).weight / n.to(torch.float64)
        log_ratio, h = self._ratio(step, t)
        mask, open_ = step.context.mask, step.path.unresolved(x_t, t)
        if through:
            loss = reduce(self._identity(step, fake, real, log_ratio, x_t, t), w, mask, open_)
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

    def _teacher(self, step: Step, x_t: Tensor, t: Tensor) -> tuple[Posterior, Tensor, Tensor | float]:
        """The teacher's belief, the samples that it is about, and what is to be added to the gap."""
        x0 = step.rollout.x0
        if not self.data_share:
            return self._real(step, x_t, t), x0, 0.0
        chosen = torch.rand(len(t), generator=step.g, device=step.g.device).to(t.device) < self.data_share
        chosen = chosen.reshape(-1, *(1 for _ in x0.shape[1:]))
        asked = torch.where(chosen, at_data(step.path, x_t, x0, step.x0, t), x_t)
        there = torch.where(chosen, step.x0.to(x0.dtype), x0)
        # Scores differ by alpha / sigma^2 times (beliefs less states over alpha), and the states by alpha (x0 - there).
        shift = there - x0 if self.data_form == "score" else 0.0
        return self._real(step, asked, t), there, shift

    def _ratio(self, step: Step, t: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """log r and h(r) at x_t, Float64[b], without gradient; None for the reverse KL divergence."""
        if self.law is None:
            return None, None
        if "discriminator" not in step.models:
            raise UserError(
                "a divergence other than reverse_kl reads density ratios off a discriminator; add objective.adversarial"
            )
        head = step["discriminator"]
        if getattr(head, "reads", FITTING) != FITTING:
            raise UserError(
                "the density ratio is the logit of one head on the critic's declared layer under loss=softplus; leave "
                "families.adversarial.critic, layers, heads and loss out"
            )
        seen = (q for q in step.expected if q.model == "fake_score" and q.features)
        if any(q.times not in (None, self.times) for q in seen):
            raise UserError(
                f"the density ratio is read at {self.times} and its discriminator is trained elsewhere; leave "
                "families.adversarial.times out"
            )
        features = self._told(step, "student").features
        assert features is not None
        with torch.no_grad():
            return gaps.weights(self.law, head(features), self.limits)

    def _identity(
        self, step: Step, fake: Posterior, real: Posterior, log_ratio: Tensor | None, x_t: Tensor, t: Tensor
    ) -> Tensor:
        """Per element, with its graph through both beliefs."""
        delta = -fake.gap(real, self.kind)
        target = step.path.certain(step.copy(self.times).target)
        loss = delta * real.gap(target, self.kind) - self.alpha * delta.square()
        if self.law is None or log_ratio is None:
            return loss
        u = gaps.leaning(log_ratio, gaps.score_gap(delta, step.path, t), x_t)
        return like(self.law.k(u), loss) * loss - 0.5 * like(self.law.slope(u), loss) * delta.square()

    # --- the critic's loss, and a teacher's that is still learning --------------------------------------------------

    def _critic(self, step: Step) -> Losses:
        """Denoising of the student's samples: `E w(t) nll(F(x_t, t), x0)` (DMD, eq. 6), or of its states."""
        copy = step.copy(self.critic_times)
        belief = self._told(step, "fake_score").belief
        assert belief is not None
        more: Tensor | float = 0.0
        if self.pressure:
            with torch.no_grad():
                target = step[self.real](copy.x_t, copy.t, step.context)
            more = self.pressure * belief.divergence(target, "nll", step.context.mask)
        return self._denoising(step, "fake_score", belief, copy, more)

    def _data(self, step: Step, times: Times) -> Noised:
        """The batch's data, noised."""
        t = step.draw(times, step.batch.count).to(step.x0.device)
        x_t = step.path.corrupt(step.x0, t, step.context, g=step.g)
        return Noised(x_t, t, step.x0, torch.ones_like(t))

    def _fitted(self, step: Step) -> Losses:
        """Denoising of the task's data, of a second teacher."""
        copy = self._data(step, self.times)
        belief = step[self.real](copy.x_t, copy.t, step.without_condition(self.drop))
        return self._denoising(step, self.real, belief, copy)

    def _denoising(
        self, step: Step, name: str, belief: Posterior, copy: Noised, more: Tensor | float = 0.0
    ) -> Losses:
        error = belief.divergence(step.path.certain(copy.target), "nll") + more
        output = self.critic_weighting == "output"
        w = step[name].output_weight(copy.t) if output else weight(self.critic_weighting, step.path, copy.t)
        open_ = step.path.unresolved(copy.x_t, copy.t)
        return Losses({"denoising": reduce(error, w * copy.weight, step.context.mask, open_)})

    def cost(self, role: str) -> Calls:
        if role == "student":
            blind = self.critic == "unconditional"
            calls = {"student": 1 + (self.critic == "student"), self.real: _branches(self.guidance) + blind}
            apart = 0 if self._plain() else _branches(self.fake_guidance)
            asked = apart + (self._plain() or self.law is not None)
            return _sum(
                calls | ({"fake_score": asked} if self.asks else {}),
                getattr(self.times, "calls", {}),
                self.stand_in.cost(role, self.real) if self.stand_in else {},
                {"source": 1} if "source" in self.roles else {},
            )
        if role == self.real != "teacher":
            return {self.real: 1}
        if self.stand_in is not None and role in self.stand_in.roles:
            return self.stand_in.cost(role, self.real)
        if role != "fake_score" or self.critic != "fake_score":
            return {}
        more = {self.real: 1} if self.pressure else {}
        return _sum({"student": 1, "fake_score": 1}, more, getattr(self.critic_times, "calls", {}))


def _sum(*calls: Calls) -> Calls:
    total: Counter[str] = Counter()
    for each in calls:
        total.update(each)
    return dict(total)


def _branches(scale: float | None) -> int:
    """Calls of one question under guidance."""
    return 1 if scale in (0.0, 1.0) else 2


def _range(given: Sequence[float]) -> tuple[float, float]:
    if len(given) != 2 or not given[0] <= given[1]:
        raise UserError(f"guidance is a scale or a range [low, high], got {list(given)}")
    return float(given[0]), float(given[1])
