"""The critic of distribution matching that is a denoiser: of what it learns the student's law, and how it is asked.

It denoises the student's samples, `E w(t) nll(F(x_t, t), x0)` (Yin et al. 2023, DMD, eq. 6), or with times `Onwards`
the states that the student's sampler goes on with (TDM: Luo et al. 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.objectives.base import Losses, RoleSpec, branches
from omnidistill.objectives.questions import Question
from omnidistill.objectives.step import Noised, Step, reduce
from omnidistill.posteriors import Posterior
from omnidistill.times import Onwards, Times
from omnidistill.weights import weight

NAME = "fake_score"
KINDS = (NAME, "shared", "frozen")


class FakeScore:
    """
    Args:
        kind: `fake_score` learns here; `shared` is what another part trains; `frozen` is never updated.
        times: distribution of the noising time of what it learns from.
        updates: of the critic for one of the student.
        lr: its learning rate as a multiple of the student's.
        weighting: w(t), a name of `weights.WEIGHTS`, or `output`.
        guidance: scale under which it is asked in the student's turn; 1 is none, 0 without condition, None that of the
            context.
        drop: share of its samples that it learns without their condition.
        step_aware: it is told at which of the student's steps its sample was made, by the second time of a student of
            several steps, which it starts as a copy of.
        follow: share by which its weights move to the student's after each update of the student.
        pressure: gamma of its second loss, its distance to the teacher's belief about the same state.
        teacher: who that is.
    """

    def __init__(
        self,
        kind: str,
        times: Times,
        updates: int = 1,
        lr: float = 1.0,
        weighting: str = "output",
        guidance: float | None = 1.0,
        drop: float = 0.0,
        step_aware: bool = False,
        follow: float | None = None,
        pressure: float = 0.0,
        teacher: str = "teacher",
    ) -> None:
        self.trained = kind == NAME
        if self.trained and updates < 1:
            raise UserError(
                f"a trained critic needs critic_updates >= 1, got {updates}; or use critic: frozen"
            )
        if follow is not None and not (0.0 < follow < 1.0 and self.trained):
            raise UserError(
                f"follow is a share above 0 and below 1 of a trained critic, got follow={follow}, critic={kind}"
            )
        if pressure and not (self.trained and pressure > -1.0):
            raise UserError(
                f"critic_teacher is above -1 and of a trained critic, got critic_teacher={pressure}, critic={kind}"
            )
        self.times, self.weighting, self.guidance, self.drop = times, weighting, guidance, drop
        self.pressure, self.teacher = pressure, teacher
        start = "student" if step_aware or follow is not None else "teacher"
        self.roles: dict[str, RoleSpec] = {}
        if self.trained:
            self.roles[NAME] = RoleSpec(start, updates, lr, follow=follow)
        elif kind == "frozen":
            self.roles[NAME] = RoleSpec(start, refresh=0)

    # --- in the student's turn ------------------------------------------------------------------------------------

    @property
    def plain(self) -> bool:
        """Whether its belief comes without guidance, from the call that its features come from, too."""
        return self.guidance == 1.0

    def belief(self, step: Step, question: Question) -> Posterior:
        """About the noised rollout. Under guidance it is asked apart from the question, at the same times."""
        assert question.times is not None
        times, told = question.times, step[NAME].wants_target or not step.spec.several
        if isinstance(times, Onwards) and not told:
            raise UserError(
                "the law of a state depends on where it is, and this critic is not told; set step_aware=true and "
                "student.target_time=true"
            )
        if self.plain:
            belief = step.answer(question).belief
            assert belief is not None
            return belief
        asked, (x_t, t) = step.guided(NAME, self.guidance), step.noised(times)
        return asked(x_t, t, step.context, target_time=step.told(NAME, times))

    def asked(self, features: bool) -> int:
        """Calls of the student's turn."""
        return (0 if self.plain else branches(self.guidance)) + (self.plain or features)

    # --- in its own ---------------------------------------------------------------------------------------------

    @property
    def question(self) -> Question:
        """About what it learns from."""
        return Question(NAME, self.times, belief=True, drop=self.drop)

    def losses(self, step: Step) -> Losses:
        """Its denoising loss."""
        copy, belief = step.copy(self.times), step.answer(self.question).belief
        assert belief is not None
        more: Tensor | float = 0.0
        if self.pressure:
            with torch.no_grad():
                target = step[self.teacher](copy.x_t, copy.t, step.context)
            more = self.pressure * belief.divergence(target, "nll", step.context.mask)
        return self._denoising(step, NAME, belief, copy, more)

    def teacher_losses(self, step: Step, times: Times) -> Losses:
        """The same loss of a teacher that is still learning, on the task's data noised to these times."""
        copy = of_data(step, times)
        belief = step[self.teacher](copy.x_t, copy.t, step.without_condition(self.drop))
        return self._denoising(step, self.teacher, belief, copy)

    def _denoising(
        self, step: Step, name: str, belief: Posterior, copy: Noised, more: Tensor | float = 0.0
    ) -> Losses:
        error = belief.divergence(step.path.certain(copy.target), "nll") + more
        output = self.weighting == "output"
        w = step[name].output_weight(copy.t) if output else weight(self.weighting, step.path, copy.t)
        open_ = step.path.unresolved(copy.x_t, copy.t)
        return Losses({"denoising": reduce(error, w * copy.weight, step.context.mask, open_)})


def of_data(step: Step, times: Times) -> Noised:
    """The batch's data, noised."""
    t = step.draw(times, step.batch.count).to(step.x0.device)
    x_t = step.path.corrupt(step.x0, t, step.context, g=step.g)
    return Noised(x_t, t, step.x0, torch.ones_like(t))
