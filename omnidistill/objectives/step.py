"""The workbench of one optimisation step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context, labels_of, relabelled
from omnidistill.denoisers import Denoiser, Guided
from omnidistill.denoisers.guidance import Null, Unconditional
from omnidistill.denoisers.routed import Routed
from omnidistill.errors import UserError
from omnidistill.objectives import copies
from omnidistill.objectives.answers import ask, read
from omnidistill.objectives.base import StudentSpec
from omnidistill.objectives.copies import Noised
from omnidistill.objectives.questions import Answer, Question, merged, placed
from omnidistill.objectives.reduction import reduce
from omnidistill.objectives.walks import Walks
from omnidistill.paths import Path
from omnidistill.random import uniform
from omnidistill.samplers import Rollout
from omnidistill.samplers.base import Trajectory
from omnidistill.samplers.translation import Source, source
from omnidistill.times import Onwards, Times

__all__ = ["Noised", "Step", "reduce"]


class Step:
    """The workbench of one update of one role: batch, models, generator, and what several objectives share.

    The student's rollout and its noised copies are made once per step, so a matching term, a discriminator and a
    reward added by weight look at the same sample. Everything a role does not train runs without gradient through
    its parameters: the engine has frozen them, so only inputs carry gradients there.

    Guidance scales of `guidance_range` are drawn here, before any objective looks, so that rollouts, teachers and
    whoever else wants to be told know the same ones, whichever objective comes first.
    """

    def __init__(
        self,
        role: str,
        batch: Batch,
        models: Mapping[str, nn.Module],
        g: torch.Generator,
        *,
        like: Tensor,
        student: StudentSpec = StudentSpec(),
        update: int = 0,
        total: int = 1,
        null: Null | None = None,
        bank: Mapping[str, Any] | None = None,
        guidance_range: tuple[float, float] | None = None,
        structure: torch.Generator | None = None,
        logged: bool = True,
    ) -> None:
        self.role, self.batch, self.models, self.g = role, batch, models, g
        self.like, self.spec, self.update, self._total = like, student, update, total
        # Draws that belong to the step as a whole; where nobody gives a generator for them, the step's own.
        self.structure = g if structure is None else structure
        self.asked_total = False
        # Whether anybody looks at this step's diagnostics; who has costly ones may leave them out of the others.
        self.logged = logged
        self.null, self.bank = null, bank
        self._begun: Tensor | None = None
        self._source: Source | None = None
        self._noised: dict[Times, Noised] = {}
        self._wanted: list[Times] = []
        self._expected: list[Question] = []
        self._answers: dict[Question, Answer] = {}
        self._walks = Walks(batch.x0)
        if guidance_range is not None:
            self.draw_guidance(*guidance_range)
        if student.grows and batch.x0 is not None:
            self.batch = replace(self.batch, x0=self.sized(batch.x0))

    def __getitem__(self, name: str) -> Denoiser:
        if name not in self.models:
            raise UserError(f"this step has no model '{name}'; it has {', '.join(self.models)}")
        return self.models[name]  # type: ignore[return-value]

    def guided(self, name: str, scale: float | None) -> Denoiser:
        """The model under classifier-free guidance of this scale; as it is for scale 1, asked once without its
        condition for 0. A scale of None leaves it to `context.guidance`."""
        if scale == 1.0:
            return self[name]
        if self.null is None:
            raise UserError(
                f"guidance {scale} needs a task with a null condition; this task has none, use guidance 1"
            )
        model = self[name]
        if isinstance(model, Routed):
            return model.guided(scale, self.null)
        if scale == 0.0:
            return Unconditional(model, self.null)
        return Guided(model, scale, self.null)

    @property
    def total(self) -> int:
        """Updates of the whole run. Who asks ties what is learned to where the run ends, which is remembered: such a
        run cannot be made longer afterwards."""
        self.asked_total = True
        return self._total

    @property
    def path(self) -> Path:
        """The teacher's path, by which a student that has another is noised too; its own where there is no teacher."""
        return self["teacher"].path if "teacher" in self.models else self["student"].path

    @property
    def context(self) -> Context:
        return self.batch.context

    def without_condition(self, share: float) -> Context:
        """The context with this share of its conditions made null, so that a model learns to do without."""
        condition = self.context.condition
        if not share or condition is None:
            return self.context
        labels = condition if isinstance(condition, Tensor) else labels_of(condition)
        if self.null is None or callable(self.null) or labels is None:
            raise UserError("drop_condition needs a task with a null label; set drop_condition=0")
        dropped = uniform(labels, self.g) < share
        return self.context.with_condition(relabelled(condition, torch.where(dropped, self.null, labels)))

    def draw_guidance(self, low: float, high: float) -> None:
        """Draws one guidance scale per sample into the context, for the teacher to use and the student to be told; once
        a step, and nothing may have been asked before."""
        if self.context.guidance is not None:
            return
        if self._walks.rolled is not None:
            raise UserError("guidance is drawn before a step's rollout; give the step its guidance_range")
        scale = low + (high - low) * torch.rand(self.batch.count, generator=self.g, device=self.g.device)
        self.batch = replace(self.batch, context=replace(self.context, guidance=scale.to(self.like.device)))

    def sized(self, data: Tensor) -> Tensor:
        """Data as the step's rollout is, see `walks.Walks.sized`."""
        return self._walks.sized(self, data)

    @property
    def x0(self) -> Tensor:
        """The batch's clean data at the size of the step's rollout; an error where the task has none."""
        if self.batch.x0 is None:
            raise UserError(
                "this objective needs real data, and the task gives none; choose a data-free recipe"
            )
        return self.batch.x0

    @property
    def rollout(self) -> Rollout:
        """The student's answer from its own inputs; with a graph only when the student is being trained."""
        asked = (*self._wanted, *(question.times for question in self._expected))
        return self._walks.rollout(self, any(isinstance(times, Onwards) for times in asked))

    def walk(self, group: int | None = None) -> tuple[Batch, Trajectory]:
        """The student's walk of all its steps and the batch that it is of, see `walks.Walks.walk`."""
        return self._walks.walk(self, group)

    @property
    def source(self) -> Source:
        """What the rollout is translated from under `student.inputs=translated`: for each sample of the batch data of
        another label, towards its own. A discriminator so judges a translation under the label that it is to have, as
        it does the sample of the same row, which is real."""
        if self._source is None:
            self._source = source(self.batch, self.g, self.structure)
        return self._source

    @property
    def begun(self) -> Tensor:
        """What the student of the start (role `source`) makes of the rollout's input, asked once; without gradient."""
        if self._begun is None:
            rollout = self.rollout
            with torch.no_grad():
                belief = self["source"](rollout.x_t, rollout.t, rollout.context)
                self._begun = belief.sample(None, rollout.context.mask)
        return self._begun

    def noised(self, times: Times) -> tuple[Tensor, Tensor]:
        """(x_t, t): the rollout's x0 noised to times of this distribution; one copy per distribution.

        It has a graph where the rollout has one, whoever asks first and whether under `no_grad` or not: another
        objective may send a gradient through x_t."""
        copy = self.copy(times)
        return copy.x_t, copy.t

    def copy(self, times: Times) -> Noised:
        """The noised copy and what is learned from it. With times `Onwards` it is not the rollout's x0 that is noised
        but the state that the student's sampler goes on with from there."""
        if times not in self._noised:
            self._wanted.append(times)
            with torch.set_grad_enabled(self.role == "student"):
                self._noised[times] = copies.noised(self, times)
        return self._noised[times]

    def draw(self, times: Times, count: int) -> Tensor:
        """See `copies.draw`."""
        return copies.draw(self, times, count)

    def told(self, name: str, times: Times) -> Tensor | None:
        """The time by which a critic with a second time is told what its samples are: the one at which the student's
        step began or, of states, the one at which it ended; Float64[b]. None for a critic without."""
        if not self[name].wants_target:
            return None
        rollout = self.rollout
        return torch.full_like(rollout.t, rollout.s) if isinstance(times, Onwards) else rollout.t

    @property
    def expected(self) -> list[Question]:
        """What objectives said that they are going to ask."""
        return list(self._expected)

    def expect(self, questions: Iterable[Question], groups: Iterable[int | None] = ()) -> None:
        """What objectives are going to ask, and in groups of which sizes they are going to walk: who comes first asks
        and walks for all of them."""
        self._expected += questions
        self._walks.expected.update(groups)

    def answer(self, question: Question) -> Answer:
        """The answer to a question, from a call that is made once for all that is expected about the same copy.

        It has a graph to the student's parameters through x_t where features or a graph are wanted in its role, and to
        the model's own in its role, whatever the gradient mode of who asks.
        """
        own = placed(question, self._expected)
        whole = next(q for q in merged([*self._expected, own]) if q.fits(own))
        if whole not in self._answers:
            graph = whole.features or whole.graph if self.role == "student" else self.role == whole.model
            with torch.set_grad_enabled(graph):
                self._answers[whole] = read(self, ask(self, whole), whole)
        answer = self._answers[whole]
        return answer if own.layers == whole.layers or not own.features else read(self, answer, own)

    def real(self, among: str, context: Context | None = None) -> tuple[Tensor, Context]:
        """What is real, and its contexts: the batch's data, or the ends of the teacher's trajectories in the bank."""
        if among == "data":
            return self.x0, self.context if context is None else context
        if self.bank is None:
            raise UserError("samples of the teacher are read from step.bank, and this step has none")
        return self.sized(self.bank["states"][:, -1]), self.bank["context"]
