"""The teacher's side of a gap: whose belief a critic's is compared with, about which states, under which condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from omnidistill.context import Context, labels_of, relabelled
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import Calls, branches
from omnidistill.objectives.questions import at_data
from omnidistill.objectives.step import Step
from omnidistill.posteriors import Posterior

TEACHER = "teacher"
FORMS = ("score", "x0")


class RealScore:
    """
    Args:
        name: who is the teacher: `teacher`, or another name for a copy of it that is trained on the task's data
            meanwhile (Uni-DAD: two parts with two teachers and one critic).
        guidance: guidance scale of the teacher; 1 is none, 0 asks it without condition. Two numbers are a range from
            which a scale is drawn for each sample.
        share: of samples for which the teacher is asked about noised data in the sample's place, with the same noise
            (Data-Forcing Distillation: Chen et al. 2026, arXiv:2606.18478).
        form: what is then compared, `score`s or beliefs (`x0`). Data are independent of the sample, so the first only
            spreads the student (variance V / (1 - share) + k^2 share / (1 - share) in place of a Gaussian teacher's V,
            k the noise level) and the second only contracts it.
        replaced: labels under which the teacher is asked in place of others, e.g. {3: 5} to forget 3.
    """

    def __init__(
        self,
        name: str = TEACHER,
        guidance: float | Sequence[float] = 1.0,
        *,
        share: float = 0.0,
        form: str = "score",
        replaced: Mapping[int, int] | None = None,
    ) -> None:
        if form not in FORMS:
            raise unknown("data_form", form, FORMS)
        if not 0.0 <= share <= 1.0:
            raise UserError(f"data_share is a share from 0 to 1, got {share}")
        self.name, self.share, self.form = name, share, form
        self.scales = None if isinstance(guidance, int | float) else _range(guidance)
        self.guidance = float(guidance) if isinstance(guidance, int | float) else None
        self.replaced = {int(a): int(b) for a, b in (replaced or {}).items()}

    @property
    def trained(self) -> bool:
        """On the task's data, beside the student."""
        return self.name != TEACHER

    @property
    def needs(self) -> frozenset[str]:
        """What a path and a task have to offer."""
        condition = {"condition"} if self.guidance != 1.0 or self.replaced else set()
        return frozenset(condition | ({"data"} if self.share or self.trained else set()))

    @property
    def cost(self) -> Calls:
        """Of one belief."""
        return {self.name: branches(self.guidance)}

    def about(
        self, step: Step, x_t: Tensor, t: Tensor, name: str
    ) -> tuple[Posterior, Tensor, Tensor | float]:
        """The belief of this teacher, the samples that it is about, and what is to be added to the gap."""
        x0 = step.rollout.x0
        if not self.share:
            return self._belief(step, x_t, t, name), x0, 0.0
        chosen = torch.rand(len(t), generator=step.g, device=step.g.device).to(t.device) < self.share
        chosen = chosen.reshape(-1, *(1 for _ in x0.shape[1:]))
        asked = torch.where(chosen, at_data(step.path, x_t, x0, step.x0, t), x_t)
        there = torch.where(chosen, step.x0.to(x0.dtype), x0)
        # Scores differ by alpha / sigma^2 times (beliefs less states over alpha), and the states by alpha (x0 - there).
        shift = there - x0 if self.form == "score" else 0.0
        return self._belief(step, asked, t, name), there, shift

    def _belief(self, step: Step, x_t: Tensor, t: Tensor, name: str) -> Posterior:
        return step.guided(name, self.guidance)(x_t, t, self._asked(step.context))

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


def _range(given: Sequence[float]) -> tuple[float, float]:
    if len(given) != 2 or not given[0] <= given[1]:
        raise UserError(f"guidance is a scale or a range [low, high], got {list(given)}")
    return float(given[0]), float(given[1])
