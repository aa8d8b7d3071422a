"""What the student does in one step, made once however many objectives look: its rollout and its walk of all steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnidistill.context import Batch
from omnidistill.errors import UserError
from omnidistill.samplers import Rollout
from omnidistill.samplers.base import Trajectory
from omnidistill.samplers.few_step import drawn
from omnidistill.samplers.translation import start

if TYPE_CHECKING:
    from omnidistill.objectives.step import Step


class Walks:
    """The rollout is an answer at one of the student's steps; a walk has the answers at all of them. Where a walk is
    going to be made for the batch as it is, the rollout is that of one of its steps and costs nothing.

    The step that these are of is told each time: kept, it would keep itself and its graphs alive.
    """

    def __init__(self, full: Tensor | None) -> None:
        self.full = full
        """Data at their own size, from which a rollout may start."""
        self.expected: set[int | None] = set()
        """Sizes of the groups that objectives are going to walk in; None is one that takes any."""
        self.rolled: Rollout | None = None
        self._walked: dict[int, tuple[Batch, Trajectory]] = {}
        self._drawn: tuple[int, bool, int | None] | None = None

    # --- which step -------------------------------------------------------------------------------------------------

    def drawn(self, step: Step) -> tuple[int, bool, int | None]:
        """How many steps the rollout's walk has, whether it starts from noised data, and which of the steps it is of;
        None where the walk says that itself."""
        if self._drawn is None:
            spec, g = step.spec, step.structure
            steps, data = spec.steps, spec.inputs == "data"
            if spec.walks:
                steps = spec.walks[int(torch.randint(len(spec.walks), (), generator=g, device=g.device))]
            if spec.inputs == "mixed":
                data = bool(torch.randint(2, (), generator=g, device=g.device))
            self._drawn = steps, data, None if spec.inputs in ("whole", "jumps") else drawn(steps, g)
        return self._drawn

    def sized(self, step: Step, data: Tensor) -> Tensor:
        """Data as the step's rollout is: of a student that grows (`samplers.growing`), at the size of its step."""
        if not step.spec.grows:
            return data
        steps, _, k = self.drawn(step)
        return step.spec.sampler.resized(data, steps if k is None else k, steps, step.like)

    # --- rollout and walk -------------------------------------------------------------------------------------------

    def rollout(self, step: Step, onwards: bool) -> Rollout:
        """The student's answer from its own inputs; with a graph only when the student is being trained.

        Args:
            onwards: the answer is that of the step itself, see `FewStep.rollout`.
        """
        if self.rolled is None:
            with torch.set_grad_enabled(step.role == "student"):
                self.rolled = self._of_walk(step) if self._shared(step) else self._apart(step, onwards)
        return self.rolled

    def _apart(self, step: Step, onwards: bool) -> Rollout:
        sampler, inputs, (steps, from_data, k) = step.spec.sampler, step.spec.inputs, self.drawn(step)
        asked = (step["student"], step.like, steps, step.context)
        if inputs == "jumps":
            return sampler.three_jumps(*asked, g=step.g, structure=step.structure)
        # The input is made of the data at their own size; `x0` says where there are none.
        data = self.full if from_data and step.x0 is not None else None
        x_1 = start(step["student"].path, step.source.x0) if inputs == "translated" else None
        return sampler.rollout(
            *asked, g=step.g, data=data, whole=inputs == "whole", onwards=onwards, x_1=x_1, k=k
        )

    def _shared(self, step: Step) -> bool:
        """Whether the rollout's input and answer are those of a walk that is made anyway. Not where a student is told
        where it jumps to: a walk's answers are those of its steps, a rollout's those of jumps to the data."""
        spec = step.spec
        if step.role != "student" or not (self.expected or self._walked) or self._any != 1:
            return False
        told = step["student"].wants_target and spec.sampler.transition != "renoise"
        return spec.inputs == "simulated" and not (told or spec.walks or spec.grows)

    @property
    def _any(self) -> int:
        """The size of the groups of who takes any."""
        return min({*self._walked, *(group for group in self.expected if group)}, default=1)

    def _of_walk(self, step: Step) -> Rollout:
        k = self.drawn(step)[2] or 0
        _, walk = self.walk(step, 1)
        t = walk.times[k].expand(len(walk.states[k])).to(walk.states[k].device)
        end = float(walk.times[k + 1])
        return Rollout(walk.states[k], t, walk.beliefs[k], walk.x0[k], walk.context, end)

    def walk(self, step: Step, group: int | None = None) -> tuple[Batch, Trajectory]:
        """The student's walk of all its steps, each answer with its own graph and none through the states, and the
        batch that it is of.

        Args:
            group: so many walks under each of the batch's first conditions, from noises of their own; None: as others
                want them, or one.

        Raises:
            UserError: groups of this size do not divide the batch.
        """
        group = self._any if group is None else group
        if group not in self._walked:
            batch, sampler = grouped(step.batch, group), step.spec.sampler
            asked = (step["student"], step.like, step.spec.steps, batch.context)
            with torch.set_grad_enabled(step.role == "student"):
                self._walked[group] = batch, sampler.trajectory(*asked, g=step.g, keep="each")
        return self._walked[group]


def grouped(batch: Batch, group: int) -> Batch:
    """The batch's first conditions, each as often as a group has walks."""
    if group == 1:
        return batch
    if batch.count % group:
        raise UserError(
            f"groups of {group} walks do not divide the {batch.count} samples of a batch (of a process, or a part); "
            "set batch to a multiple"
        )
    first = torch.arange(batch.count // group).repeat_interleave(group)
    x0 = None if batch.x0 is None else batch.x0[first.to(batch.x0.device)]
    return replace(batch, x0=x0, context=batch.context.map(lambda value: value[first.to(value.device)]))
