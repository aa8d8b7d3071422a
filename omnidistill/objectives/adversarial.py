"""A discriminator on a denoiser's inner features: noised real samples against the noised rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.objectives import penalties
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec
from omnidistill.objectives.games import game
from omnidistill.objectives.heads import Jury, check_jury, named, reader
from omnidistill.objectives.questions import REAL, Answer, Question, Seen
from omnidistill.objectives.step import Step
from omnidistill.objectives.verdicts import accuracies
from omnidistill.times import Times, Uniform

MISMATCHED = ("contrastive", "fake")


class Adversarial:
    """A GAN (losses: `objectives.games`) whose discriminator is heads on the features of a role's network at a noised
    sample: DMD2 (Yin et al. 2024, sec. 4.3) with the defaults,

    `L_D = softplus(-H(x_t^real)) + softplus(H(x_t^fake))`, `L_G = softplus(-H(x_t^fake))`,

    real and fake with their own t and noise. The heads are trained in the critic's role, together with its trunk unless
    that is `frozen`. Beside `matching` it looks at matching's own noised rollout, and the critic is asked once for its
    belief about it, its features there and those of noised data.

    Args:
        times: distribution of the noising time. None: that of the objective that it shares the critic with, whose
            noised rollout it then looks at; alone, all of the path's. DMD2 draws a time and noise apart.
        critic_weight: factor of L_D beside the critic's denoising loss.
        width: hidden width of a head.
        critic: the role whose features are read.
        view: of clean samples, what is judged instead of the samples themselves, e.g. single frames of a video;
            Float[b ...] -> Float[b ...] of the same shape.
        start: what the critic starts as, where no other objective says (`matching` does): `teacher`, `student`, or
            `random`, a network like the teacher's with weights drawn anew. It is then trained on L_D alone.
        frozen: the trunk stays as it starts, and heads alone are trained (Sauer et al. 2024, LADD).
        loss: a name of `games.GAMES`.
        layers: names of the layers that are read, one head each; `all` of them; None: the network's declared one.
        heads, drawn, renewed: of a larger jury, see `heads.Jury`.
        real: what is real: the batch's `data`, or samples of the `teacher`, of which `bank` are made before training
            with `teacher_steps` steps.
        paired: real samples are noised with the rollout's noise to its time; a pair differs by the samples alone.
        r1, r2, penalty, sigma: see `objectives.penalties`.
        updates, lr: of the discriminator for one of the student, and its learning rate as a multiple of the student's
            (two time scales: Heusel et al. 2017), where no other objective says.
        mismatch: weight of what the discriminator learns about conditions from real samples under another's:
            `mismatched: contrastive`, `softplus(D(x, c') - D(x, c))` (Novack et al. 2025, ARC, arXiv:2505.08175), or
            `fake`, they count as fake (Kang et al. 2024, Diffusion2GAN, arXiv:2405.05967).
        step_heads: the heads are told at which of the student's steps a sample was made, and judge real ones as if made
            there: each step is matched. Without it the mixture of all steps is, in which their errors can cancel. A
            trunk that is told (`Matching`'s `step_aware`) needs no such heads. The student need not be told.
        name: of the discriminator, where a recipe has two.
    """

    rolls_out = True

    def __init__(
        self,
        times: Times | None = None,
        critic_weight: float = 1e-2,
        width: int = 128,
        critic: str = "fake_score",
        view: Callable[[Tensor], Tensor] | None = None,
        start: str | None = None,
        frozen: bool = False,
        loss: str = "softplus",
        layers: Sequence[str] | str | None = None,
        heads: int | None = None,
        drawn: int | None = None,
        renewed: float = 0.0,
        real: str = "data",
        bank: int = 4096,
        teacher_steps: int = 16,
        paired: bool = False,
        r1: float = 0.0,
        r2: float = 0.0,
        penalty: str = "exact",
        sigma: float = 0.01,
        mismatch: float = 0.0,
        mismatched: str = "contrastive",
        updates: int | None = None,
        lr: float | None = None,
        step_heads: bool = False,
        name: str = "discriminator",
    ) -> None:
        for what, value, known in (
            ("real samples of a discriminator", real, REAL),
            ("mismatched", mismatched, MISMATCHED),
        ):
            if value not in known:
                raise unknown(what, value, known)
        if view is not None and (paired or r1 or r2 or mismatch or real == "teacher"):
            raise UserError(
                "a discriminator with a view has no pairs, penalties, mismatch or samples of the teacher"
            )
        if mismatch and mismatched == "fake" and loss == "relativistic":
            raise UserError(
                "pairs are real and fake, so mismatched=fake has no relativistic form; use contrastive"
            )
        check_jury(heads, drawn, renewed)
        penalties.check(penalty, r1, r2, sigma)
        self.game, self.layers, self.name = game(loss), named(layers), name
        self.view, self.times, self.critic_weight, self.critic = view, times, critic_weight, critic
        self.among, self.paired = real, paired
        self.r1, self.r2, self.penalty, self.sigma = r1, r2, penalty, sigma
        self.mismatch, self.mismatched, self.step_heads = mismatch, mismatched, step_heads
        self.bank = BankSpec(bank, teacher_steps) if real == "teacher" else None
        # The sample must carry a gradient through the critic's features to the student.
        needs = {"differentiable", "data" if real == "data" else "deterministic"}
        self.needs = frozenset(
            needs | ({"condition"} if mismatch else set()) | ({"gaussian"} if paired else set())
        )

        def build(denoiser: Denoiser) -> nn.Module:
            made = reader(denoiser, self.layers, width, heads, drawn, renewed, step_heads)
            # For who takes its logits for something else, see `Matching`.
            made.reads = (critic, self.layers, heads, loss, step_heads)  # type: ignore[assignment]
            return made

        self.roles = {
            critic: RoleSpec(
                start=start, updates=updates, lr=lr, modules={name: build}, frozen=frozen or None
            )
        }

    # --- what is asked --------------------------------------------------------------------------------------------

    def questions(self, role: str) -> list[Question]:
        """Of the critic: its features. A view is noised apart, so it is asked about apart."""
        if self.view is not None or role not in ("student", self.critic):
            return []
        real = role == self.critic or self.game.relative
        return [
            Question(
                self.critic,
                self.times,
                features=True,
                layers=self.layers,
                real=real,
                among=self.among,
                paired=self.paired,
            )
        ]

    def _answer(self, step: Step, role: str) -> Answer:
        """Features of noised rollouts and, where they are wanted, of noised data."""
        if self.view is None:
            return step.answer(*self.questions(role))
        x_t, t, fake = self._viewed(step, step.rollout.x0)
        if role == "student" and not self.game.relative:
            return Answer(x_t, t, features=fake)
        real, later, found = self._viewed(step, step.x0)
        return Answer(x_t, t, data=Seen(real, later, step.context), features=fake, real=found)

    def _viewed(self, step: Step, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert self.view is not None
        seen, times = self.view(x0), self.times or Uniform()
        t = times(seen.shape[0], step.path, step.g).to(seen.device)
        x_t = step.path.corrupt(seen, t, step.context, g=step.g)
        return x_t, t, self._features(step, x_t, t, step.context)

    def _features(self, step: Step, x_t: Tensor, t: Tensor, context: Context) -> Tensor:
        """Of a state asked about apart, in a call of its own."""
        model, told = step[self.critic], step.told(self.critic, self.times or Uniform())
        names = tuple(model.feature_widths(self.layers))
        _, found = model.examine(x_t, t, context, names, answered=0, target_time=told)
        return torch.cat([model.pool(found[name], context) for name in names], 1)

    def _judge(self, step: Step) -> Callable[[Tensor], Tensor]:
        """Features of one batch or of several, one after another, to logits, by the heads drawn for this step."""
        head = step[self.name]
        keywords: dict[str, Any] = {}
        if isinstance(head, Jury) and head.drawn:
            keywords["which"] = head.draw(step.structure)
        if not self.step_heads:
            return partial(head, **keywords)
        t = step.rollout.t

        def judge(features: Tensor) -> Tensor:
            logits: Tensor = head(features, t=t.repeat(len(features) // len(t)), **keywords)
            return logits

        return judge

    # --- losses ---------------------------------------------------------------------------------------------------

    def losses(self, role: str, step: Step) -> Losses | None:
        if role == "student":
            judge, answer = self._judge(step), self._answer(step, role)
            assert answer.features is not None
            real = judge(answer.real) if self.game.relative and answer.real is not None else answer.features
            return Losses({"adversarial": self.game.student(real, judge(answer.features)).mean()})
        return self._discriminator(step) if role == self.critic else None

    def _discriminator(self, step: Step) -> Losses:
        judge, answer = self._judge(step), self._answer(step, self.critic)
        assert answer.features is not None and answer.real is not None and answer.data is not None
        fake, real = judge(torch.cat((answer.features, answer.real))).split(len(answer.features))
        terms = {"discriminator": self.critic_weight * self.game.discriminator(real, fake).mean()}
        fakes = Seen(answer.x_t, answer.t, step.context)
        for key, gamma, seen, features, logits in (
            ("r1", self.r1, answer.data, answer.real, real),
            ("r2", self.r2, fakes, answer.features, fake),
        ):
            if gamma:
                steep = self._steepness(step, judge, seen, features, logits)
                terms[key] = self.critic_weight * 0.5 * gamma * steep.mean()
        if self.mismatch:
            terms["mismatch"] = (
                self.critic_weight * self.mismatch * self._mismatched(step, judge, answer.data, real)
            )
        if not step.logged:
            return Losses(terms)
        shown = accuracies(self.game, real.detach(), fake.detach(), answer.data.t, answer.t, step.path)
        return Losses(terms, shown)

    def _steepness(
        self, step: Step, judge: Callable[[Tensor], Tensor], seen: Seen, features: Tensor, logits: Tensor
    ) -> Tensor:
        """`|grad D|^2`, Float[b]."""
        if self.penalty == "features":
            return penalties.exact(judge, features)

        def of(x: Tensor) -> Tensor:
            return judge(self._features(step, x, seen.t, seen.context))

        if self.penalty == "exact":
            return penalties.exact(of, seen.x)
        return penalties.perturbed(of, seen.x, logits, self.sigma, step.g, seen.context.mask)

    def _mismatched(self, step: Step, judge: Callable[[Tensor], Tensor], data: Seen, real: Tensor) -> Tensor:
        """Of real samples under the condition of the sample before them."""
        other = data.context.with_condition(data.context.map(lambda value: value.roll(1, 0)).condition)
        logits = judge(self._features(step, data.x, data.t, other))
        if self.mismatched == "contrastive" or self.game.as_fake is None:
            return F.softplus(logits - real).mean()
        return self.game.as_fake(logits).mean()

    def cost(self, role: str) -> Calls:
        if role == "student":
            return {"student": 1, self.critic: 1 + self.game.relative}
        if role != self.critic:
            return {}
        apart = 0 if self.penalty == "features" else (self.r1 > 0) + (self.r2 > 0)
        return {"student": 1, self.critic: 2 + apart + (self.mismatch > 0)}
