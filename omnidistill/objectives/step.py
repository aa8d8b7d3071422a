"""The workbench of one optimisation step, and the one way from elementwise losses to a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, Guided
from omnidistill.denoisers.guidance import Null
from omnidistill.denoisers.routed import Routed
from omnidistill.errors import UserError
from omnidistill.objectives.base import StudentSpec
from omnidistill.objectives.questions import Answer, Question, merged, placed
from omnidistill.paths import Path
from omnidistill.random import uniform
from omnidistill.samplers import Rollout
from omnidistill.times import Times


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
    ) -> None:
        self.role, self.batch, self.models, self.g = role, batch, models, g
        self.like, self.spec, self.update, self._total = like, student, update, total
        # Draws that belong to the step as a whole; where nobody gives a generator for them, the step's own.
        self.structure = g if structure is None else structure
        self.asked_total = False
        self.null, self.bank = null, bank
        self._rollout: Rollout | None = None
        self._noised: dict[Times, tuple[Tensor, Tensor]] = {}
        self._expected: list[Question] = []
        self._answers: dict[Question, Answer] = {}
        if guidance_range is not None:
            self.draw_guidance(*guidance_range)

    def __getitem__(self, name: str) -> Denoiser:
        if name not in self.models:
            raise UserError(f"this step has no model '{name}'; it has {', '.join(self.models)}")
        return self.models[name]  # type: ignore[return-value]

    def guided(self, name: str, scale: float | None) -> Denoiser:
        """The model under classifier-free guidance of this scale; as it is for scale 1. A scale of None leaves it
        to `context.guidance`."""
        if scale == 1.0:
            return self[name]
        if self.null is None:
            raise UserError(
                f"guidance {scale} needs a task with a null condition; this task has none, use guidance 1"
            )
        model = self[name]
        if isinstance(model, Routed):
            return model.guided(scale, self.null)
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
        if self.null is None or callable(self.null) or not isinstance(condition, Tensor):
            raise UserError("drop_condition needs a task with a null label; set drop_condition=0")
        dropped = uniform(condition, self.g) < share
        return self.context.with_condition(torch.where(dropped, self.null, condition))

    def draw_guidance(self, low: float, high: float) -> None:
        """Draws one guidance scale per sample into the context, for the teacher to use and the student to be told; once
        a step, and nothing may have been asked before."""
        if self.context.guidance is not None:
            return
        if self._rollout is not None:
            raise UserError("guidance is drawn before a step's rollout; give the step its guidance_range")
        scale = low + (high - low) * torch.rand(self.batch.count, generator=self.g, device=self.g.device)
        self.batch = replace(self.batch, context=replace(self.context, guidance=scale.to(self.like.device)))

    @property
    def x0(self) -> Tensor:
        """The batch's clean data; an error where the task has none."""
        if self.batch.x0 is None:
            raise UserError(
                "this objective needs real data, and the task gives none; choose a data-free recipe"
            )
        return self.batch.x0

    @property
    def rollout(self) -> Rollout:
        """The student's answer from its own inputs; with a graph only when the student is being trained."""
        if self._rollout is None:
            sampler, steps = self.spec.sampler, self._steps()
            asked = (self["student"], self.like, steps, self.context)
            with torch.set_grad_enabled(self.role == "student"):
                if self.spec.inputs == "jumps":
                    self._rollout = sampler.three_jumps(*asked, g=self.g, structure=self.structure)
                else:
                    data = self.x0 if self.spec.inputs == "data" else None
                    whole = self.spec.inputs == "whole"
                    self._rollout = sampler.rollout(
                        *asked, g=self.g, data=data, structure=self.structure, whole=whole
                    )
        return self._rollout

    def _steps(self) -> int:
        """How many steps the rollout's walk has."""
        walks = self.spec.walks
        if not walks:
            return self.spec.steps
        g = self.structure
        return walks[int(torch.randint(len(walks), (), generator=g, device=g.device))]

    def noised(self, times: Times) -> tuple[Tensor, Tensor]:
        """(x_t, t): the rollout's x0 noised to times of this distribution; one copy per distribution.

        It has a graph where the rollout has one, whoever asks first and whether under `no_grad` or not: another
        objective may send a gradient through x_t."""
        if times not in self._noised:
            x0 = self.rollout.x0
            t = times(x0.shape[0], self.path, self.g).to(x0.device)
            with torch.set_grad_enabled(self.role == "student"):
                self._noised[times] = self.path.corrupt(x0, t, self.context, g=self.g), t
        return self._noised[times]

    def expect(self, questions: Iterable[Question]) -> None:
        """What objectives are going to ask: who asks first asks for all of them."""
        self._expected += questions

    def answer(self, question: Question) -> Answer:
        """The answer to a question, from a call that is made once for all that is expected about the same copy.

        It has a graph to the student's parameters through x_t where features are wanted in the student's role, and to
        the model's own in its role, whatever the gradient mode of who asks.
        """
        own = placed(question, self._expected)
        key = own.model, own.times, own.drop
        about = [q for q in merged([*self._expected, own]) if (q.model, q.times, q.drop) == key]
        (whole,) = about
        if whole not in self._answers:
            graph = whole.features if self.role == "student" else self.role == whole.model
            with torch.set_grad_enabled(graph):
                self._answers[whole] = self._ask(whole)
        return self._answers[whole]

    def _ask(self, question: Question) -> Answer:
        assert question.times is not None
        model, path = self[question.model], self.path
        x_t, t = self.noised(question.times)
        context = self.without_condition(question.drop)
        if not question.features:
            return Answer(x_t, t, model(x_t, t, context), None, None)
        count = len(x_t)
        answered = None if question.belief else 0
        if not question.real:
            belief, found = model.examine(x_t, t, context, answered=answered)
            return Answer(x_t, t, belief, model.pool(next(iter(found.values())), context), None)
        later = question.times(count, path, self.g).to(x_t.device)
        noised = path.corrupt(self.x0, later, context, g=self.g)
        both = context.joined(context)
        answered = count if question.belief else 0
        belief, found = model.examine(
            torch.cat((x_t, noised.to(x_t.dtype))), torch.cat((t, later)), both, answered=answered
        )
        model.count()  # two batches in one call
        fake, real = model.pool(next(iter(found.values())), both).split(count)
        return Answer(x_t, t, belief, fake, real)


def reduce(
    elementwise: Tensor, weight: Tensor | float = 1.0, mask: Tensor | None = None, where: Tensor | None = None
) -> Tensor:
    """Weighted mean over the real elements of a sample, then mean over samples: a scalar.

    Args:
        elementwise: Float[b ...].
        weight: w(t): a number; Float[b]; or one per element, with as many axes as `elementwise` and in each its size
            or 1, e.g. Float[b 1 f 1 1] for one weight a frame.
        mask: True where an element is real, with as many axes and in each its size or 1; padding never counts.
        where: True where a loss is wanted (unresolved elements), likewise; the others count as zero, so that a sample's
            loss is a sum over its undecided elements divided by its length.

    Raises:
        UserError: a shape that would only happen to broadcast (one weight a frame where frames are as many as channels
            or samples).
    """
    weight = torch.as_tensor(weight, device=elementwise.device).to(elementwise.dtype)
    if weight.ndim == 1:
        weight = weight.reshape(-1, *(1 for _ in elementwise.shape[1:]))
    for name, value in (("weight", weight), ("mask", mask), ("where", where)):
        _fits(name, value, elementwise)
    elementwise = weight * elementwise
    if where is not None:
        elementwise = torch.where(where, elementwise, 0.0)
    if mask is None:
        sample = elementwise.flatten(1).mean(1)
    else:
        real = mask.expand(elementwise.shape)
        count = real.flatten(1).sum(1).clamp_min(1)
        sample = torch.where(real, elementwise, 0.0).flatten(1).sum(1) / count
    return sample.mean()


def _fits(name: str, value: Tensor | None, elementwise: Tensor) -> None:
    """An error unless `value` is a number or has the axes of the loss, in each its size or 1."""
    if value is None or value.ndim == 0:
        return
    shape, full = tuple(value.shape), tuple(elementwise.shape)
    if len(shape) != len(full) or any(n not in (1, m) for n, m in zip(shape, full, strict=True)):
        raise UserError(
            f"{name} of shape {shape} does not say which axes of a loss of {full} it belongs to; "
            "give it as many axes, of these sizes or 1"
        )
